"""Connection strength: what changes when a weight, or a unit, is removed or perturbed, beside its magnitude.

All changes are exact on the examples given, one weight or unit at a time, in float64. Weights are those of a layer's
matrix W (fan_in, unit), convolution kernels included: unit j receives z_j = sum_i s_i W_ij + b_j, where s = incoming(l, h)
is what the weights multiply.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from analysis.statistics import spearman
from analysis.threads import in_threads
from wspace.models import Layered, as_matrix
from wspace.objective import LossKind, cache_compiled, example_loss
from wspace.tree import AnyArray, Params

TOGETHER = 32  # changes that one program makes at once
TOP = 0.1  # share of the weights that are called large


@dataclasses.dataclass(frozen=True)
class WeightEffects:
    """What each weight of one layer, or of some of its senders, does in every network.

    Attributes:
        layer: 0 for the one that receives the inputs.
        magnitude: |W_ij|, (seed, sender, unit).
        incoming: root mean square of s_i over examples and positions, (seed, sender).
        on_unit: root mean square, over examples and positions, of the change of what unit j hands on when W_ij = 0.
        on_loss: loss with W_ij = 0 less loss, nats or squared units of the target; negative where removing helps.
        on_loss_shifted: mean of the losses with W_ij + d and W_ij - d, less loss, for the same d in all of a layer. What is
            linear in d cancels: it tells curvature, about d^2/2 times the second derivative.
        shift: d of each network, (seed,).
    """

    layer: int
    magnitude: Float[np.ndarray, "seed sender unit"]
    incoming: Float[np.ndarray, "seed sender"]
    on_unit: Float[np.ndarray, "seed sender unit"]
    on_loss: Float[np.ndarray, "seed sender unit"]
    on_loss_shifted: Float[np.ndarray, "seed sender unit"]
    shift: Float[np.ndarray, "seed"]

    @property
    def contribution(self) -> Float[np.ndarray, "seed sender unit"]:
        """|W_ij| rms(s_i): magnitude with the scale of what it multiplies; exactly the rms change of z_j when W_ij = 0."""
        return self.magnitude * self.incoming[..., None]


@dataclasses.dataclass(frozen=True)
class UnitEffects:
    """What each unit of one hidden layer does, in every network.

    Attributes:
        layer: 0 for the first hidden one.
        incoming_norm: |W_.j|, (seed, unit).
        outgoing_norm: length of all that the unit's weights in the next layer hold, (seed, unit).
        activity: root mean square of what the unit hands on, over examples and positions.
        on_outputs: root mean square change of the outputs when the unit hands on 0.
        on_loss: loss when the unit hands on 0, less loss.
        on_loss_mean: loss when the unit hands on its mean over examples, at each position, less loss.
    """

    layer: int
    incoming_norm: Float[np.ndarray, "seed unit"]
    outgoing_norm: Float[np.ndarray, "seed unit"]
    activity: Float[np.ndarray, "seed unit"]
    on_outputs: Float[np.ndarray, "seed unit"]
    on_loss: Float[np.ndarray, "seed unit"]
    on_loss_mean: Float[np.ndarray, "seed unit"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far magnitude tells influence: Spearman's rank correlations over the weights of a layer, one a seed.

    Correlations are NaN for a seed without any variation of magnitudes or of changes.

    Attributes:
        raw: |W_ij| against the change, (seed,).
        scaled: |W_ij| rms(s_i) against it: the scale of what the weight multiplies is accounted for.
        within: the mean over target units j of the correlation of |W_ij| rms(s_i) with the change over i alone: what the
            unit does with what it receives is equal as well.
        chance: standard deviation of a correlation of as many unrelated numbers, 1/sqrt(n - 1).
        misled: share of the largest TOP of weights, by magnitude, whose change is below the median of all; half of them
            if magnitude said nothing, none if it said all.
        missed: share of the TOP of weights with the largest changes whose magnitude is below the median.
    """

    raw: Float[np.ndarray, "seed"]
    scaled: Float[np.ndarray, "seed"]
    within: Float[np.ndarray, "seed"]
    chance: float
    misled: Float[np.ndarray, "seed"]
    missed: Float[np.ndarray, "seed"]


def weight_effects(
    model: Layered, kind: LossKind, params: Params, x: Float[AnyArray, "example *feature"],
    y: Shaped[AnyArray, "example *target"], *, layer: int, shift: float = 0.1, senders: Sequence[int] | None = None,
) -> WeightEffects:  # fmt: skip
    """Remove, and shift, every weight of a layer of every network, one at a time.

    Args:
        model: a network of layers.
        kind: the data loss; the L2 term is left out, because it knows magnitudes.
        params: stacked, leaves (seed, ...).
        x, y: examples; all of them are used for every weight.
        layer: 0 .. num_layers - 1.
        shift: d as a multiple of the root mean square of the layer's weights.
        senders: rows of the layer's matrix whose weights are tried; default: all of them.

    Raises:
        ValueError: there is no such layer or sender, there are no examples, the shift is not positive, or a value is not
            finite.
    """
    _check(model, params, x, layer, model.num_layers)
    if not shift > 0:
        raise ValueError(f"shift = {shift}: a positive multiple of the weights' root mean square is expected")
    fan_in = as_matrix(np.asarray(params[layer]["weight"])[0]).shape[0]
    rows = np.arange(fan_in) if senders is None else np.asarray(senders)
    if len(rows) == 0 or not 0 <= rows.min() <= rows.max() < fan_in:
        raise ValueError(f"senders = {senders}: at least one of 0 .. {fan_in - 1} is expected")
    return WeightEffects(layer, *_each(_weights(model, kind, layer), params, x, y, shift, rows))


def unit_effects(
    model: Layered, kind: LossKind, params: Params, x: Float[AnyArray, "example *feature"],
    y: Shaped[AnyArray, "example *target"], *, layer: int,
) -> UnitEffects:  # fmt: skip
    """Silence every unit of a hidden layer of every network, one at a time; arguments and errors as in `weight_effects`."""
    _check(model, params, x, layer, model.num_layers - 1)
    return UnitEffects(layer, *_each(_units(model, kind, layer), params, x, y))


def agreement(effects: WeightEffects, change: Float[np.ndarray, "seed sender unit"]) -> Agreement:
    """Magnitude against one of the changes, e.g. `effects.on_loss`; its size counts, not its sign.

    Args:
        effects: of one layer.
        change: of its weights.
    """
    flat = lambda values: values.reshape(len(values), -1)  # noqa: E731
    size = np.abs(change)
    magnitude, sizes = flat(effects.magnitude), flat(size)
    return Agreement(
        spearman(magnitude, sizes),
        spearman(flat(effects.contribution), sizes),
        _within(effects.contribution, size),
        float(1 / np.sqrt(magnitude.shape[1] - 1)) if magnitude.shape[1] > 1 else np.nan,
        _below(magnitude, sizes),
        _below(sizes, magnitude),
    )


def _within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean over units of the correlation over what each receives; units without one are left out."""
    each = spearman(np.moveaxis(a, -1, 1), np.moveaxis(b, -1, 1))
    known = np.isfinite(each)
    total, num = np.where(known, each, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(total, num, out=np.full(len(each), np.nan), where=num > 0)


def _below(chosen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of the TOP of `chosen` whose `other` is below the median, for each row."""
    num = max(1, round(TOP * chosen.shape[1]))
    top = np.argsort(-chosen, axis=1, kind="stable")[:, :num]
    return np.mean(np.take_along_axis(other, top, axis=1) < np.median(other, axis=1, keepdims=True), axis=1)


def _check(model: Layered, params: Params, x: Any, layer: int, num: int) -> None:
    if not 0 <= layer < num:
        raise ValueError(f"layer = {layer}: one of 0 .. {num - 1} is expected")
    if len(x) == 0:
        raise ValueError("there are no examples to measure on")
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
        raise ValueError("params are not finite: leave out networks that diverged")


def _each(program: Callable, params: Params, x: AnyArray, y: AnyArray, *more: Any) -> list[np.ndarray]:
    """program(params, x, y, *more) of every network, one thread a core, stacked."""
    wide = lambda a: np.asarray(a, np.float64) if np.issubdtype(np.asarray(a).dtype, np.floating) else np.asarray(a)  # noqa: E731
    params, y = jax.tree.map(wide, params), wide(y)
    x = np.asarray(x, np.float64)

    def one(index: int) -> tuple[np.ndarray, ...]:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, program(jax.tree.map(lambda leaf: leaf[index], params), x, y, *more))

    found = in_threads(one, range(len(jax.tree.leaves(params)[0])))
    return [np.stack(values) for values in zip(*found, strict=True)]


class _Layer:
    """One layer of one network at work on all examples, and what becomes of the loss when a unit hands on something else."""

    def __init__(self, model: Layered, kind: LossKind, layer: int, params: Params, x: Any, y: Any):
        self.model, self.layer, self.params, self.y = model, layer, params, y
        self.kind: LossKind = kind
        h = model.activations(params, x)[layer - 1] if layer else jnp.asarray(x)
        self.incoming = model.incoming(layer, h)
        self.weight = as_matrix(params[layer]["weight"])
        self.received = model.receive(params, layer, h)
        self.handed_on = model.hand_on(layer, self.received)
        self.last = layer == model.num_layers - 1
        self.above = self.handed_on if self.last else model.receive(params, layer + 1, self.handed_on)
        self.outputs = self.above if self.last else model.rest(params, self.above, layer + 1)
        self.loss = self._mean_loss(self.outputs)

    def own(self, j: Any) -> Any:
        """What unit j hands on, with an axis of one unit."""
        return jax.lax.dynamic_slice_in_dim(self.handed_on, j, 1, axis=-1)

    def outputs_with(self, j: Any, change: Any) -> Any:
        """Outputs when unit j hands on so much more; the layer above receives it through the unit's own weights alone."""
        if self.last:
            return self.outputs + change * (jnp.arange(self.outputs.shape[-1]) == j)
        weight = self.params[self.layer + 1]["weight"]
        sends = jnp.take(weight, j, axis=-2)
        received = self.model.incoming(self.layer + 1, change) @ sends.reshape(-1, weight.shape[-1])
        return self.model.rest(self.params, self.above + received, self.layer + 1)

    def loss_with(self, j: Any, change: Any) -> Any:
        """Loss when unit j hands on so much more, less loss."""
        return self._mean_loss(self.outputs_with(j, change)) - self.loss

    def _mean_loss(self, outputs: Any) -> Any:
        return jnp.mean(example_loss(self.kind, outputs, self.y))


@cache_compiled
def _weights(model: Layered, kind: LossKind, layer: int) -> Callable:
    def program(params, x, y, shift, rows):
        at = _Layer(model, kind, layer, params, x, y)
        units = at.weight.shape[1]
        distance = shift * _rms(at.weight)

        def handed_on(i, j, more):
            """By how much what unit j hands on changes when W_ij grows by `more`."""
            received = jax.lax.dynamic_slice_in_dim(at.received, j, 1, axis=-1)
            sender = jax.lax.dynamic_slice_in_dim(at.incoming, i, 1, axis=-1)
            return model.hand_on(layer, received + more * sender) - at.own(j)

        def one(index):
            i, j = rows[index // units], index % units
            removed = handed_on(i, j, -at.weight[i, j])
            shifted = [at.loss_with(j, handed_on(i, j, sign * distance)) for sign in (1, -1)]
            return _rms(removed), at.loss_with(j, removed), sum(shifted) / 2

        found = jax.lax.map(one, jnp.arange(len(rows) * units), batch_size=TOGETHER)
        on_unit, on_loss, on_loss_shifted = (values.reshape(len(rows), units) for values in found)
        incoming = _rms(at.incoming, range(at.incoming.ndim - 1))
        return jnp.abs(at.weight[rows]), incoming[rows], on_unit, on_loss, on_loss_shifted, distance

    return jax.jit(program)


@cache_compiled
def _units(model: Layered, kind: LossKind, layer: int) -> Callable:
    def program(params, x, y):
        at = _Layer(model, kind, layer, params, x, y)
        above = params[layer + 1]["weight"]

        def one(j):
            own = at.own(j)
            silent = at.outputs_with(j, -own)
            return _rms(silent - at.outputs), at.loss_with(j, -own), at.loss_with(j, jnp.mean(own, axis=0) - own)

        changes = jax.lax.map(one, jnp.arange(at.weight.shape[1]), batch_size=TOGETHER)
        outgoing = jnp.sqrt(jnp.sum(jnp.square(jnp.moveaxis(above, -2, 0)), axis=tuple(range(1, above.ndim))))
        activity = _rms(at.handed_on, range(at.handed_on.ndim - 1))
        return jnp.linalg.norm(at.weight, axis=0), outgoing, activity, *changes

    return jax.jit(program)


def _rms(values: Any, axes: Any = None) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(values), axis=None if axes is None else tuple(axes)))
