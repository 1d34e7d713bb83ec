"""Low-loss curves between networks: trained between fixed ends, measured by arc length.

A curve is a weighted mean of control points theta_0 .. theta_n, phi(t) = sum_k w_k(t) theta_k with t in [0, 1]. The ends
theta_0 and theta_n are the two networks, the bends between them are free.

bezier: w_k(t) = binom(n, k) t^k (1-t)^(n-k), which passes through its ends only. polygon: w_k(t) = max(0, 1 - |n t - k|),
the chain of segments that passes through all points.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from analysis.connectivity.line import Line, along, distance
from analysis.threads import in_threads
from wspace import objective
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.program import Device, block_width, choose_devices, numerics
from wspace.tree import AnyArray, Layout, Params, pick

Shape = Literal["bezier", "polygon"]
INTERVALS, NODES = 2048, 4  # of the quadrature of a Bézier curve's length
NUM_REPORTS = 50  # times that a block of pairs tells how far it is


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve with alpha the share of its arc length, as `path` of `analysis.connectivity.along`.

    So losses are those at even distances along the curve, and a barrier's chord falls or rises evenly with the way
    travelled, as on a straight line; t would crowd some parts and thin out others.
    """

    shape: Shape

    def __call__(
        self, points: tuple[Params, tuple[Params, AnyArray], Params], alpha: Float[Array, ""], x: Any
    ) -> Params:
        """Params at alpha in [0, 1], exactly the ends at 0 and 1.

        Args:
            points: (a, (bends, table), b), as `curve_points` returns it; table as `arc_length` returns it.
            alpha: share of the arc length.
            x: not used.
        """
        del x
        a, (bends, table), b = points
        t = jnp.interp(alpha, table[0], table[1])
        t = jnp.where(alpha <= 0, 0, jnp.where(alpha >= 1, 1, t))  # interpolation rounds, and steps over flat ends
        return curve_at(self.shape, a, bends, b, t)


@dataclasses.dataclass(frozen=True)
class Curves:
    """Fitted curves between the networks of several pairs.

    Attributes:
        shape: bezier or polygon.
        bends: the free control points, leaves (pair, bend, ...), NumPy.
        history: data loss of every step, the mean over the points and examples that it drew; NaN or inf where it was so.
        diverged: pairs of which a loss, a bend or the optimizer's state was not finite; their bends are left as they are.
        length: of the curve; NaN for diverged pairs.
        distance: |theta_b - theta_a|.
    """

    shape: Shape
    bends: Params
    history: Float[np.ndarray, "pair step"]
    diverged: Bool[np.ndarray, "pair"]
    length: Float[np.ndarray, "pair"]
    distance: Float[np.ndarray, "pair"]

    @property
    def path(self) -> Curve:
        """What `along` takes as `path` with the points of `curve_points`."""
        return Curve(self.shape)

    @property
    def detour(self) -> Float[np.ndarray, "pair"]:
        """length / distance, at least 1 up to rounding; NaN for diverged pairs and for equal ends."""
        apart = np.where(self.distance > 0, self.distance, np.nan)
        return self.length / apart


def fit_curves(
    model: Model,
    kind: LossKind,
    params_a: Params,
    params_b: Params,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    shape: Shape = "bezier",
    num_bends: int = 1,
    l2: float = 0.0,
    num_steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    num_points: int = 2,
    ids: Sequence[int] | Int[np.ndarray, "pair"] | None = None,
    precision: str = "highest",
    num_devices: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Curves:
    """Train curves of low loss between the two networks of every pair, whose ends stay where they are.

    Minimises E[L(phi(t)) + l2/2 |phi(t)|^2], t uniform in [0, 1], L the mean data loss on the train set, over the bends:
    Adam with a learning rate that falls to 0 along a cosine. A step draws `num_points` points t, one from each of as many
    equal parts of [0, 1], and a batch for each. The bends start evenly spaced on the straight line. Garipov et al. 2018
    (1802.10026), sections 3.1 to 3.3; Draxler et al. 2018 (1803.00885) bend chains.

    The mean is over t, not over arc length, and it is a mean: a narrow barrier can be left on the curve. The bends
    follow gradients on the straight line, so where a reflection maps the loss and both ends to themselves they cannot
    leave it; trained networks have no such symmetry. Without L2 term the train loss hardly limits how far bends go: a
    large learning rate takes them far out, where the test loss can be high although the train loss is not.

    Pairs are trained side by side, as many in one program as `wspace.program.block_width` allows for the bends and the
    points of a step. The numbers of a pair depend on its id, not on the others, up to rounding.

    Args:
        model: anything with `apply(params, x)`; compiled once for equal models where it is hashable.
        kind: the data loss L.
        params_a, params_b: the ends, stacked, leaves (pair, ...).
        data: the train examples are used.
        key: source of all t and batches.
        shape: bezier or polygon.
        num_bends: free control points.
        l2: coefficient of the L2 term.
        num_steps: of Adam.
        batch_size: examples for each point, drawn with replacement; the whole train set where it is as large.
        learning_rate: Adam's, at the start: about how far each param of a bend moves in a step, however small its
            gradient.
        num_points: t drawn for each step.
        ids: numbers below 2^32 that the pairs' draws are made from; default: 0, 1, ...
        precision: of matmuls on accelerators, as in `EngineSpec.precision`.
        num_devices: default: all that JAX sees.
        progress: told how many steps are done, the loss and how long the others take.

    Raises:
        ValueError: the networks differ, there are no pairs, an end is not finite, or an option is out of range.
        PlatformError: there are fewer devices.
    """
    num, layout = _check(params_a, params_b, shape, ids)
    options = {"num_bends": num_bends, "num_steps": num_steps, "num_points": num_points, "batch_size": batch_size}
    if low := [f"{name} = {value}" for name, value in options.items() if value < 1]:
        raise ValueError(f"{', '.join(low)}: at least 1 is expected")
    if batch_size > len(data.x_train):
        raise ValueError(f"batch_size = {batch_size}: there are {len(data.x_train)} train examples")
    if not (0 < learning_rate < math.inf and 0 <= l2 < math.inf):
        raise ValueError(f"learning_rate = {learning_rate}, l2 = {l2}: finite, above 0 and at least 0, is expected")
    devices = choose_devices(num_devices)[:num]
    wide = block_width(layout.size * (num_bends + num_points), devices[0].platform, num_points * batch_size)
    width = math.ceil(num / math.ceil(num / min(wide, math.ceil(num / len(devices)))))
    rows = np.split(np.minimum(np.arange(-(-num // width) * width), num - 1), -(-num // width))  # the last is padded
    chunk = math.ceil(num_steps / NUM_REPORTS)
    advance = _compiled(model, kind, num_bends, num_steps, batch_size, num_points, chunk, precision)
    numbers = np.arange(num) if ids is None else np.asarray(ids)
    polygon = np.bool_(shape == "polygon")
    shared = (key, data.x_train, data.y_train, np.float32(l2), np.float32(learning_rate), polygon)
    tell = _Teller(num, num_steps, len(rows), progress)

    def work(device: Device) -> list[tuple[Params, np.ndarray, np.ndarray]]:
        placed, found = jax.device_put(shared, device), []
        for block in rows[devices.index(device) :: len(devices)]:
            a, b = (_rows(params, block) for params in (params_a, params_b))
            with numerics(precision):
                state = _start(a, b, num_bends, num_steps)
            state, a, b, drawn = jax.device_put((state, a, b, numbers[block].astype(np.uint32)), device)
            history = []
            for first in range(0, num_steps, chunk):
                last = min(first + chunk, num_steps)
                state, losses = advance(state, a, b, drawn, np.int32(first), np.int32(last), *placed)
                history.append(np.asarray(losses)[:, : last - first])
                tell(last - first, history[-1])
            found.append((jax.tree.map(np.asarray, state.bends), np.concatenate(history, 1), _finite(state)))
        return found

    parts = in_threads(work, devices, len(devices))
    blocks = [parts[i % len(devices)][i // len(devices)] for i in range(len(rows))]
    bends, history, finite = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num], *blocks)
    diverged = ~(finite & np.all(np.isfinite(history), axis=1))
    length, apart = np.full(num, np.nan), np.zeros(num)
    for i in range(num):
        a, b = pick(params_a, i), pick(params_b, i)
        apart[i] = distance(a, b)
        if not diverged[i]:
            length[i] = arc_length(shape, a, pick(bends, i), b)[0]
    return Curves(shape, bends, history, diverged, length, apart)


def curve_points(
    curves: Curves, index: int, params_a: Params, params_b: Params
) -> tuple[Params, tuple[Params, Float[np.ndarray, "2 node"]], Params]:
    """(a, (bends, table), b) of one pair: the points that `along` takes with `curves.path`.

    Args:
        curves: fitted between these networks.
        index: position of the pair.
        params_a, params_b: the ends, stacked, leaves (pair, ...).

    Raises:
        ValueError: the pair's curve diverged.
    """
    if curves.diverged[index]:
        raise ValueError(f"the curve of pair {index} diverged: fit it with a smaller learning rate")
    a, bends, b = (pick(params, index) for params in (params_a, curves.bends, params_b))
    return a, (bends, arc_length(curves.shape, a, bends, b)[1]), b


def curve_lines(
    model: Model,
    kind: LossKind,
    params_a: Params,
    params_b: Params,
    data: Dataset,
    curves: Curves,
    *,
    l2: float = 0.0,
    num_alphas: int = 51,
) -> list[Line | None]:
    """Losses and barriers along every curve, by arc length, exact on all data, in float64: see `along`.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        params_a, params_b: the ends, stacked, leaves (pair, ...).
        data: train and test examples.
        curves: fitted between these networks.
        l2: coefficient of the L2 term of train_objective.
        num_alphas: odd; the maxima are refined between these points.

    Returns:
        One line for each pair, None for those that diverged. A line's length is the distance between its ends, a
        curve's is `curves.length`.
    """

    def one(index: int) -> Line | None:
        if curves.diverged[index]:
            return None
        points = curve_points(curves, index, params_a, params_b)
        return along(model, kind, points, data, path=curves.path, l2=l2, num_alphas=num_alphas)

    return in_threads(one, range(len(curves.diverged)))


def curve_at(shape: Shape, a: Params, bends: Params, b: Params, t: Any) -> Params:
    """phi(t): a point of the curve from a to b, exactly a at t = 0 and b at t = 1.

    Args:
        shape: bezier or polygon.
        a, b: its ends.
        bends: the control points between them, leaves (bend, ...).
        t: in [0, 1].
    """
    return _combine(_weights(shape, jax.tree.leaves(bends)[0].shape[0] + 1, t), a, bends, b)


def arc_length(shape: Shape, a: Params, bends: Params, b: Params) -> tuple[float, Float[np.ndarray, "2 node"]]:
    """Length of a curve, and where along it each t lies, in float64.

    With d_k = theta_{k+1} - theta_k and G their inner products, a polygon's segments have the lengths sqrt(G_kk), and a
    Bézier curve's speed is |phi'(t)| = n sqrt(w(t)^T G w(t)), w the n weights of degree n-1, which is integrated by
    Gauss-Legendre quadrature over equal intervals of t. Weight space is visited once, for G.

    Args:
        shape: bezier or polygon.
        a, b: the ends.
        bends: control points between them, leaves (bend, ...).

    Returns:
        (length, table): table[0] holds shares of the length from 0 to 1, table[1] the t where they are reached; between
        two nodes t is close to linear, in a polygon exactly. Of a curve without length, the shares are the t.

    Raises:
        ValueError: a control point is not finite.
    """
    gram = np.sum([_gram(*leaves) for leaves in zip(*map(jax.tree.leaves, (a, bends, b)), strict=True)], axis=0)
    if not np.all(np.isfinite(gram)):
        raise ValueError("a control point of the curve is not finite: it has no length")
    num = len(gram)
    if shape == "polygon":
        t, steps = np.arange(num + 1) / num, np.sqrt(np.diag(gram))
    else:
        t = np.arange(INTERVALS + 1) / INTERVALS
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        inside = t[:-1, None] + (nodes + 1) / (2 * INTERVALS)
        w = np.stack(_weights(shape, num - 1, inside))
        speed = num * np.sqrt(np.maximum(np.einsum("k...,kl,l...->...", w, gram, w), 0))
        steps = speed @ weights / (2 * INTERVALS)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return float(way[-1]), np.stack([way / way[-1] if way[-1] > 0 else t, t])


def _weights(shape: Shape, degree: int, t: Any) -> list[Any]:
    """w_0(t) .. w_degree(t), NumPy or JAX as t is; exactly 0 and 1 at the ends."""
    if shape == "bezier":
        return [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
    return [w * (w > 0) for w in (1 - abs(degree * t - k) for k in range(degree + 1))]


def _combine(weights: list[Any], a: Params, bends: Params, b: Params) -> Params:
    first, *inner, last = weights
    mean = lambda start, middle, end: first * start + sum(w * middle[k] for k, w in enumerate(inner)) + last * end  # noqa: E731
    return jax.tree.map(mean, a, bends, b)


def _gram(a: Any, bends: Any, b: Any) -> Float[np.ndarray, "segment segment"]:
    """Inner products, in one leaf, of the steps from control point to control point."""
    a, bends, b = (np.asarray(leaf, np.float64) for leaf in (a, bends, b))
    with np.errstate(invalid="ignore", over="ignore"):  # refused by the caller
        steps = np.diff(np.concatenate([a[None], bends, b[None]]), axis=0)
        flat: np.ndarray = steps.reshape(len(steps), -1)
        return flat @ flat.T


class _State(NamedTuple):
    """What training carries from step to step."""

    bends: Params
    opt_state: Any


@objective.cache_compiled
def _compiled(
    model: Model, kind: LossKind, num_bends: int, num_steps: int, batch_size: int, num_points: int,
    chunk: int, precision: str,
) -> Callable:  # fmt: skip
    """jit(vmap) over the pairs of a block: the only place where pairs are batched.

    Returns:
        (state, a, b, ids, first, last, key, x, y, l2, learning_rate, polygon) -> (state, losses of the steps first ..
        last-1, the first of (pair, chunk)); all but the last eight are stacked, the state is donated. The shape is a
        traced flag, so that both are compiled once.
    """

    def advance(state, a, b, number, first, last, key, x, y, l2, learning_rate, polygon):
        optimizer, key = _optimizer(num_steps, learning_rate), jax.random.fold_in(key, number)

        def at(bends, t, chosen):
            weights = [
                jnp.where(polygon, *both)
                for both in zip(*(_weights(shape, num_bends + 1, t) for shape in ("polygon", "bezier")), strict=True)
            ]
            params = _combine(weights, a, bends, b)
            batch = (x, y) if chosen is None else (x[chosen], y[chosen])
            loss, grad = objective.loss_and_gradient(model, kind, params, *batch, l2)
            return loss, grad, jnp.stack(weights[1:-1])

        def step(index, carry):
            state, losses = carry
            t, chosen = _draw(jax.random.fold_in(key, index), num_points, batch_size, len(x))
            points = jax.vmap(at, (None, 0, None if chosen is None else 0))
            loss, grad, weights = points(state.bends, t, chosen)
            grad = jax.tree.map(lambda g: jnp.tensordot(weights, g, (0, 0)) / num_points, grad)
            updates, opt_state = optimizer.update(grad, state.opt_state, state.bends)
            bends = optax.apply_updates(state.bends, updates)
            return _State(bends, opt_state), losses.at[index - first].set(jnp.mean(loss))

        return jax.lax.fori_loop(first, last, step, (state, jnp.zeros(chunk)))

    compiled = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, 0, *(None,) * 8)), donate_argnums=0)

    def scoped(*args):
        with numerics(precision):
            return compiled(*args)

    return scoped


def _start(a: Params, b: Params, num_bends: int, num_steps: int) -> _State:
    """Bends evenly spaced on the straight lines between stacked ends, and the optimizer before its first step."""
    t = np.arange(1, num_bends + 1, dtype=np.float32) / (num_bends + 1)
    line = lambda u, v: u[:, None] + t.reshape(-1, *(1,) * (u.ndim - 1)) * (v - u)[:, None]  # noqa: E731
    bends = jax.tree.map(line, a, b)
    return _State(bends, jax.vmap(_optimizer(num_steps, 1.0).init)(bends))


def _optimizer(num_steps: int, learning_rate: Any) -> optax.GradientTransformation:
    """Adam, its learning rate falling to 0 along a cosine."""
    schedule = optax.cosine_decay_schedule(1.0, num_steps)
    rate = optax.scale_by_learning_rate(lambda step: learning_rate * schedule(step))
    return optax.chain(optax.scale_by_adam(), rate)


def _draw(
    key: PRNGKeyArray, num_points: int, batch_size: int, num_examples: int
) -> tuple[Float[Array, "point"], Int[Array, "point example"] | None]:
    """One t in each of num_points equal parts of [0, 1], and a batch for each; None where all examples are used."""
    t_key, batch_key = jax.random.split(key)
    t = (jnp.arange(num_points) + jax.random.uniform(t_key, (num_points,))) / num_points
    if batch_size == num_examples:
        return t, None
    return t, jax.random.randint(batch_key, (num_points, batch_size), 0, num_examples)


def _check(params_a: Params, params_b: Params, shape: str, ids: Any) -> tuple[int, Layout]:
    """Number of pairs, and the layout of one network."""
    if shape not in get_args(Shape):
        raise ValueError(f"shape = {shape!r} is not one of {get_args(Shape)}")
    stacks = [Layout.of(params) for params in (params_a, params_b)]
    if stacks[0] != stacks[1]:
        raise ValueError(f"the networks differ: leaves {stacks[0].names} {stacks[0].shapes} and {stacks[1].shapes}")
    nums = {sizes[:1] for sizes in stacks[0].shapes}
    if len(nums) != 1 or not (num := next(iter(nums))) or num[0] < 1:
        raise ValueError(f"leaves of shapes {stacks[0].shapes}: all begin with the number of pairs, at least 1")
    if ids is not None and np.shape(ids) != num:
        raise ValueError(f"ids of shape {np.shape(ids)} for {num[0]} pairs: one for each is expected")
    for name, params in (("params_a", params_a), ("params_b", params_b)):
        finite = _finite(params)
        if not finite.all():
            raise ValueError(f"{name} of the pairs {np.flatnonzero(~finite).tolist()} are not finite")
    return num[0], Layout.of(pick(params_a, 0))


def _finite(tree: Any) -> Bool[np.ndarray, "pair"]:
    """Which pairs have finite numbers in all leaves, leaves (pair, ...)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.all([np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in leaves], axis=0)


def _rows(params: Params, rows: Int[np.ndarray, "row"]) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows].astype(np.float32), params)


class _Teller:
    """Says how far all blocks are together; called from several threads."""

    def __init__(self, num_pairs: int, num_steps: int, num_blocks: int, progress: Callable[[str], None]):
        self._what = f"of {num_steps} steps, curves between {num_pairs} pairs"
        self._per_step, self._total, self._done = num_blocks, num_steps * num_blocks, 0
        self._progress, self._began, self._lock = progress, time.monotonic(), threading.Lock()

    def __call__(self, num_steps: int, losses: Float[np.ndarray, "pair step"]) -> None:
        with self._lock:
            self._done += num_steps
            left = (time.monotonic() - self._began) * (self._total - self._done) / self._done
            step = self._done // self._per_step
            self._progress(f"{step} {self._what}: loss {np.mean(losses):.4f}, about {left:.0f} s left")
