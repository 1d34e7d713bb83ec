"""Connection strength: what changes when a weight, or a unit, is removed or perturbed, beside its magnitude.

All changes are exact on the examples given, one weight or unit at a time, in float64. Weights are those of a layer's
matrix W (fan_in, unit), convolution kernels included: unit j receives z_j = sum_i s_i W_ij + b_j, where s = incoming(l, h)
is what the weights multiply.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import rankdata

from analysis.statistics import spearman
from analysis.threads import in_threads
from wspace.models import Layered, as_matrix
from wspace.objective import LossKind, cache_compiled, example_loss
from wspace.tree import AnyArray, Params

TOGETHER = 32  # changes that one program makes at once
TOP = 0.1  # share of the weights that are called large
SHUFFLES = 64  # of magnitudes, all seeds together
ROUNDING = (
    64 * np.finfo(np.float64).eps
)  # of the loss: what summing it in another order can change; smaller effects are 0


@dataclasses.dataclass(frozen=True)
class WeightEffects:
    """What each weight of one layer, or of some of its senders, does in every network.

    Attributes:
        layer: 0 for the one that receives the inputs.
        magnitude: |W_ij|, (seed, sender, unit).
        incoming: root mean square of s_i over examples and positions, (seed, sender).
        on_unit: root mean square, over examples and positions, of the change of what unit j hands on when W_ij = 0.
        on_unit_shifted: the same of W_ij + d and W_ij - d, both together.
        on_loss: loss with W_ij = 0 less loss, nats or squared units of the target; negative where removing helps.
        on_loss_shifted: mean of the losses with W_ij + d and W_ij - d, less loss, for the same d in all of a layer. What is
            linear in d cancels: it tells curvature, about d^2/2 times the second derivative.
        shift: d of each network, (seed,).
    """

    layer: int
    magnitude: Float[np.ndarray, "seed sender unit"]
    incoming: Float[np.ndarray, "seed sender"]
    on_unit: Float[np.ndarray, "seed sender unit"]
    on_unit_shifted: Float[np.ndarray, "seed sender unit"]
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
        on_next: root mean square change, over examples, positions and units, of what the next layer hands on when the unit
            hands on 0.
        on_outputs: that of the outputs.
        on_loss: loss when the unit hands on 0, less loss.
        on_loss_mean: loss when the unit hands on its mean over examples, at each position, less loss.
        on_loss_shifted: mean of the losses when it hands on d more and d less, less loss, for one d in all of a layer.
    """

    layer: int
    incoming_norm: Float[np.ndarray, "seed unit"]
    outgoing_norm: Float[np.ndarray, "seed unit"]
    activity: Float[np.ndarray, "seed unit"]
    on_next: Float[np.ndarray, "seed unit"]
    on_outputs: Float[np.ndarray, "seed unit"]
    on_loss: Float[np.ndarray, "seed unit"]
    on_loss_mean: Float[np.ndarray, "seed unit"]
    on_loss_shifted: Float[np.ndarray, "seed unit"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far magnitude tells influence: Spearman's rank correlations over the weights of a layer, one a seed.

    Correlations are NaN for a seed without any variation of magnitudes or of changes.

    Attributes:
        raw: |W_ij| against the change, (seed,).
        scaled: |W_ij| rms(s_i) against it: the scale of what the weight multiplies is accounted for.
        within: the mean over target units j of the correlation of |W_ij| rms(s_i) with the change over i alone: what the
            unit does with what it receives is equal as well.
        chance: standard deviation of the first when the magnitudes' senders and units are shuffled, each as a whole: weights
            of one sender or unit are alike, so that unrelated magnitudes and changes correlate by more than the
            1/sqrt(n - 1) of n independent numbers. NaN where nothing can be shuffled.
        misled: share of the largest TOP of weights, by magnitude, whose change ranks in the lower half of all, ties by
            their mean rank; half of them if magnitude said nothing, none if it said all.
        missed: share of the TOP of weights with the largest changes whose magnitude ranks in the lower half.
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
        x, y: examples; all of them are used for every weight. Labels (example,), or real targets (example, output).
        layer: 0 .. num_layers - 1.
        shift: d as a multiple of the root mean square of the layer's weights.
        senders: rows of the layer's matrix whose weights are tried; default: all of them.

    Raises:
        ValueError: there is no such layer or sender, there are no examples, the shift is not positive, a value is not
            finite, or y is not what the loss and the network's outputs ask for.
    """
    _check(model, kind, params, x, y, layer, model.num_layers)
    if not shift > 0:
        raise ValueError(f"shift = {shift}: a positive multiple of the weights' root mean square is expected")
    fan_in = as_matrix(np.asarray(params[layer]["weight"])[0]).shape[0]
    rows = np.arange(fan_in) if senders is None else np.asarray(senders)
    if len(rows) == 0 or not 0 <= rows.min() <= rows.max() < fan_in:
        raise ValueError(f"senders = {senders}: at least one of 0 .. {fan_in - 1} is expected")
    return WeightEffects(layer, *_each(_weights(model, kind, layer), params, x, y, shift, rows))


def unit_effects(
    model: Layered, kind: LossKind, params: Params, x: Float[AnyArray, "example *feature"],
    y: Shaped[AnyArray, "example *target"], *, layer: int, shift: float = 0.1,
) -> UnitEffects:  # fmt: skip
    """Silence, average and shift every unit of a hidden layer of every network, one at a time.

    Arguments and errors as in `weight_effects`, but shift is a multiple of the root mean square of what the layer hands on.
    """
    _check(model, kind, params, x, y, layer, model.num_layers - 1)
    if not shift > 0:
        raise ValueError(f"shift = {shift}: a positive multiple of what units hand on is expected")
    return UnitEffects(layer, *_each(_units(model, kind, layer), params, x, y, shift))


def agreement(
    effects: WeightEffects, change: Float[np.ndarray, "seed sender unit"], *, rng: np.random.Generator
) -> Agreement:
    """Magnitude against one of the changes, e.g. `effects.on_loss`; its size counts, not its sign.

    Args:
        effects: of one layer.
        change: of its weights.
        rng: source of the shuffles behind `chance`.
    """
    flat = lambda values: values.reshape(len(values), -1)  # noqa: E731
    size = np.abs(change)
    magnitude, sizes = flat(effects.magnitude), flat(size)
    return Agreement(
        spearman(magnitude, sizes),
        spearman(flat(effects.contribution), sizes),
        _within(effects.contribution, size),
        _chance(effects.magnitude, size, rng),
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
    """Share of the TOP of `chosen` whose `other` ranks in the lower half, for each row; those in the middle count half."""
    num, middle = max(1, round(TOP * chosen.shape[1])), (chosen.shape[1] + 1) / 2
    top = np.argsort(-chosen, axis=1, kind="stable")[:, :num]
    ranks = np.take_along_axis(rankdata(other, axis=1), top, axis=1)
    return np.mean((ranks < middle) + 0.5 * (ranks == middle), axis=1)


def _chance(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Root mean square of Spearman's correlation of a and b, (seed, sender, unit), with a's rows and columns shuffled."""
    found = []
    for one, other in zip(a, b, strict=True):
        ranks = [rankdata(values).reshape(values.shape) for values in (one, other)]
        u, v = (rank - rank.mean() for rank in ranks)
        size = np.sqrt(np.sum(u**2) * np.sum(v**2))
        for _ in range(math.ceil(SHUFFLES / len(a)) if size > 0 else 0):
            rows, columns = (rng.permutation(num) for num in one.shape)
            found.append(np.sum(u[rows][:, columns] * v) / size)
    return float(np.sqrt(np.mean(np.square(found)))) if found and a[0].size > 1 else np.nan


def _check(model: Layered, kind: LossKind, params: Params, x: Any, y: Any, layer: int, num: int) -> None:
    if num < 1:
        raise ValueError("the network has no hidden layer: there are no hidden units to silence")
    if not 0 <= layer < num:
        raise ValueError(f"layer = {layer}: one of 0 .. {num - 1} is expected")
    if len(x) == 0:
        raise ValueError("there are no examples to measure on")
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
        raise ValueError("params are not finite: leave out networks that diverged")
    if not np.all(np.isfinite(x)) or not np.all(np.isfinite(y)):
        raise ValueError("x or y are not finite: finite inputs, and labels or targets, are expected")
    outputs, given = np.shape(params[-1]["weight"])[-1], np.shape(y)
    labels = kind == "cross_entropy" or np.issubdtype(np.asarray(y).dtype, np.integer)
    if given != (expected := (len(x),) if labels else (len(x), outputs)):
        what = "labels" if labels else f"real targets of {outputs} outputs"
        raise ValueError(f"y has shape {given}: {what} of {len(x)} examples have shape {expected}")
    if labels and not 0 <= np.min(y) <= np.max(y) < outputs:
        raise ValueError(f"labels are {np.min(y)} to {np.max(y)}: 0 .. {outputs - 1} are expected")


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

    def above_with(self, j: Any, change: Any) -> Any:
        """What the layer above receives when unit j hands on so much more, through the unit's own weights alone."""
        weight = self.params[self.layer + 1]["weight"]
        sends = jnp.take(weight, j, axis=-2)
        return self.above + self.model.incoming(self.layer + 1, change) @ sends.reshape(-1, weight.shape[-1])

    def outputs_with(self, j: Any, change: Any) -> Any:
        """Outputs when unit j hands on so much more."""
        if self.last:
            return self.outputs + change * (jnp.arange(self.outputs.shape[-1]) == j)
        return self.model.rest(self.params, self.above_with(j, change), self.layer + 1)

    def loss_with(self, j: Any, change: Any) -> Any:
        """Loss when unit j hands on so much more, less loss; 0 where they differ by no more than rounding."""
        more = self._mean_loss(self.outputs_with(j, change)) - self.loss
        return jnp.where(jnp.abs(more) <= ROUNDING * jnp.abs(self.loss), 0.0, more)

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
            shifted = [handed_on(i, j, sign * distance) for sign in (1, -1)]
            losses = [at.loss_with(j, change) for change in shifted]
            return _rms(removed), _rms(jnp.stack(shifted)), at.loss_with(j, removed), sum(losses) / 2

        found = jax.lax.map(one, jnp.arange(len(rows) * units), batch_size=TOGETHER)
        effects = (values.reshape(len(rows), units) for values in found)
        incoming = _rms(at.incoming, range(at.incoming.ndim - 1))
        return jnp.abs(at.weight[rows]), incoming[rows], *effects, distance

    return jax.jit(program)


@cache_compiled
def _units(model: Layered, kind: LossKind, layer: int) -> Callable:
    def program(params, x, y, shift):
        at = _Layer(model, kind, layer, params, x, y)
        distance = shift * _rms(at.handed_on)
        above = params[layer + 1]["weight"]
        next_one = model.hand_on(layer + 1, at.above)

        def one(j):
            own = at.own(j)
            on_next = _rms(model.hand_on(layer + 1, at.above_with(j, -own)) - next_one)
            on_outputs = _rms(at.outputs_with(j, -own) - at.outputs)
            shifted = [at.loss_with(j, jnp.full_like(own, sign) * distance) for sign in (1, -1)]
            averaged = at.loss_with(j, jnp.mean(own, axis=0) - own)
            return on_next, on_outputs, at.loss_with(j, -own), averaged, sum(shifted) / 2

        changes = jax.lax.map(one, jnp.arange(at.weight.shape[1]), batch_size=TOGETHER)
        outgoing = jnp.sqrt(jnp.sum(jnp.square(jnp.moveaxis(above, -2, 0)), axis=tuple(range(1, above.ndim))))
        activity = _rms(at.handed_on, range(at.handed_on.ndim - 1))
        return jnp.linalg.norm(at.weight, axis=0), outgoing, activity, *changes

    return jax.jit(program)


def _rms(values: Any, axes: Any = None) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(values), axis=None if axes is None else tuple(axes)))
