"""The loss along a path between two networks: its metrics, its barriers.

Losses are computed in float64, in a scope of its own, so that the excess over the chord is that of the exact function
and not of its rounding. The params may be any network's; nothing here needs a run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from wspace import objective, tree
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Params

LOSSES = ("train_loss", "test_loss", "train_objective")
TOLERANCE = 1e-10  # of the largest loss on the line; float64 rounding of a mean loss stays far below
REFINEMENTS, POINTS = 2, 9  # each narrows the bracket around a maximum (POINTS - 1) / 2 times
WIDTH = 11  # positions that one compiled program takes, so that lines of any number of points share it
BATCH_VALUES = 4_000_000  # params, and activations, held at once along the line

Path = Callable[[tuple[Any, ...], Any, Any], Params]


@dataclasses.dataclass(frozen=True)
class Barrier:
    """How far a loss rises between two networks a and b, L(alpha) = L((1-alpha) theta_a + alpha theta_b).

    Attributes:
        chord: max over alpha in [0, 1] of L(alpha) - [(1-alpha) L(0) + alpha L(1)], at least 0 (Entezari et al. 2022,
            2110.06296).
        chord_alpha: where that maximum is.
        mean: max over alpha of L(alpha) - [L(0) + L(1)]/2 (Frankle et al. 2020, 1912.05671).
        mean_alpha: where that maximum is.
        excess: the largest height above the chord strictly inside the line, with its sign: over grid and refined points
            where one is above it, else over the grid. Jensen's inequality says that it is at most 0 for a convex function.
        tolerance: excess above this is more than rounding: TOLERANCE times the largest |loss| on the line.
        share_above: share of the grid's inner points where the loss is above the chord by more than the tolerance.
    """

    chord: float
    chord_alpha: float
    mean: float
    mean_alpha: float
    excess: float
    tolerance: float
    share_above: float

    @property
    def violates_jensen(self) -> bool:
        """Whether the loss is certainly not convex: somewhere it lies above the chord by more than rounding."""
        return self.excess > self.tolerance


@dataclasses.dataclass(frozen=True)
class Line:
    """Metrics along a path between two networks.

    Attributes:
        alphas: positions on the path, evenly spaced, 0, 1 and exactly 0.5 included; float64.
        values: metric -> its values at the alphas, float64: all of `wspace.objective.METRICS` but grad_norm.
        barriers: train_loss, test_loss and train_objective -> Barrier.
        length: |theta_b - theta_a|, the distance between the ends.
    """

    alphas: Float[np.ndarray, "alpha"]
    values: dict[str, Float[np.ndarray, "alpha"]]
    barriers: dict[str, Barrier]
    length: float

    def chord(self, name: str) -> Float[np.ndarray, "alpha"]:
        """(1-alpha) L(0) + alpha L(1) at the alphas."""
        return _chord(self.alphas, self.values[name])


def straight_line(
    model: Model, kind: LossKind, params_a: Params, params_b: Params, data: Dataset, *, l2: float = 0.0,
    num_alphas: int = 51,
) -> Line:  # fmt: skip
    """Losses, accuracies (or r2) and barriers on the segment (1-alpha) theta_a + alpha theta_b: see `along`."""
    return along(model, kind, (params_a, params_b), data, l2=l2, num_alphas=num_alphas)


def straight(points: tuple[Params, Params], alpha: Any, x: Any) -> Params:
    """(1-alpha) theta_a + alpha theta_b: the path that `along` takes by default."""
    del x
    return tree.lerp(*points, alpha)


def along(
    model: Model,
    kind: LossKind,
    points: tuple[Any, ...],
    data: Dataset,
    *,
    path: Path = straight,
    l2: float = 0.0,
    num_alphas: int = 51,
) -> Line:
    """Losses, accuracies (or r2) and barriers on a path between two networks, exact on all data.

    The maxima are refined: around the grid's best point a finer grid, and around its best point another, so alpha is
    found to 1/(16 (num_alphas - 1)); a maximum narrower than the first grid's spacing can still be missed.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        points: what the path is made from: unstacked params of one structure as the first and the last, which are its
            ends; any pytrees of arrays between them.
        data: a dataset with its train and test examples.
        path: (points, alpha, x_train) -> params, hashable, in JAX; the straight line by default.
        l2: coefficient of the L2 term of train_objective.
        num_alphas: odd, at least 3, so that 0.5 is on the grid.

    Raises:
        ValueError: num_alphas is even or too small, the ends do not match, or a loss on the path is not finite.
    """
    if num_alphas < 3 or num_alphas % 2 == 0:
        raise ValueError(f"num_alphas = {num_alphas}: an odd number of at least 3 is expected, so that 0.5 is included")
    layout_a, layout_b = tree.Layout.of(points[0]), tree.Layout.of(points[-1])
    if layout_a != layout_b:
        raise ValueError(f"the networks differ: leaves {layout_a.names} {layout_a.shapes} and {layout_b.shapes}")
    evaluate = evaluator(model, kind, points, data, l2, WIDTH, path)
    alphas = np.arange(num_alphas) / (num_alphas - 1)
    values = evaluate(alphas)
    fine_alphas, fine = _refine(evaluate, alphas, values)
    barriers = {name: _barrier(alphas, values[name], fine_alphas, fine[name]) for name in LOSSES}
    return Line(alphas, values, barriers, distance(points[0], points[-1]))


def distance(a: Params, b: Params) -> float:
    """|theta_b - theta_a|, in float64."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(np.sqrt(sum(np.sum(np.square(np.float64(v) - np.float64(u))) for u, v in pairs)))


def evaluator(
    model: Model,
    kind: LossKind,
    points: tuple[Any, ...],
    data: Dataset,
    l2: float,
    num: int,
    path: Path,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Positions (num, ...) on a path, or between several networks -> metrics (num,), exact on all data, float64.

    Args:
        model, kind, points, data, l2, path: see `along`; a position is one number or an array, as the path expects.
        num: positions are padded to multiples of it, so that one compiled program serves all.

    Raises:
        ValueError: when called, if a loss is not finite.
    """
    size = tree.Layout.of(points[0]).size
    held = len(data.x_train) * objective.values_per_example(model, points[0], data.x_train.shape[1:])
    batch = min(num, max(1, BATCH_VALUES // max(size, held)))
    chunk = objective.chunk_examples(model, points[0], data.x_train.shape, batch)
    program = _compiled(model, kind, data.task, chunk, batch, path)
    wide = lambda leaf: np.asarray(leaf, np.float64) if np.issubdtype(leaf.dtype, np.floating) else np.asarray(leaf)  # noqa: E731
    points, train, test = jax.tree.map(wide, (points, (data.x_train, data.y_train), (data.x_test, data.y_test)))

    def evaluate(alphas: np.ndarray) -> dict[str, np.ndarray]:
        padded = np.concatenate([alphas, np.zeros((-len(alphas) % num, *alphas.shape[1:]))])
        rows = np.split(padded, len(padded) // num)
        with jax.enable_x64(True):
            parts = [jax.tree.map(np.asarray, program(points, row, train, test, float(l2))) for row in rows]
        values = {name: np.concatenate([part[name] for part in parts])[: len(alphas)] for name in parts[0]}
        if bad := [name for name in LOSSES if not np.all(np.isfinite(values[name]))]:
            raise ValueError(f"{', '.join(bad)} on the path between the networks is not finite")
        return values

    return evaluate


@functools.lru_cache(maxsize=32)
def _compiled(model: Model, kind: LossKind, task: Any, chunk: int, batch: int, path: Path) -> Callable:
    def measure(points, alphas, train, test, l2):
        def at(alpha):
            params = path(points, alpha, train[0])
            values = objective.measure(model, kind, task, params, train, test, l2, chunk)
            return {name: value for name, value in values.items() if name != "grad_norm"}  # XLA drops the gradient

        return jax.lax.map(at, alphas, batch_size=batch)

    return jax.jit(measure)


def _refine(evaluate: Callable, alphas: np.ndarray, values: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Finer points around the maximum of every loss, above its chord and as it is."""
    spacing = alphas[1]
    found_alphas, found = alphas, {name: values[name] for name in LOSSES}
    ends = {name: values[name][[0, -1]] for name in LOSSES}
    for _ in range(REFINEMENTS):
        brackets = set()
        for name in LOSSES:
            for height in (found[name], found[name] - _chord(found_alphas, ends[name])):
                peak = found_alphas[np.argmax(height)]
                brackets.add((max(0.0, peak - spacing), min(1.0, peak + spacing)))
        new = np.concatenate([np.linspace(low, high, POINTS) for low, high in sorted(brackets)])
        fine = evaluate(new)
        found_alphas = np.concatenate([found_alphas, new])
        found = {name: np.concatenate([found[name], fine[name]]) for name in LOSSES}
        spacing *= 2 / (POINTS - 1)
    added = len(alphas)
    return found_alphas[added:], {name: found[name][added:] for name in LOSSES}


def _barrier(alphas: np.ndarray, values: np.ndarray, fine_alphas: np.ndarray, fine: np.ndarray) -> Barrier:
    """Both maxima over grid and refined points; rounding does not lift a point above the ends: see `_highest`."""
    places, losses = np.concatenate([alphas, fine_alphas]), np.concatenate([values, fine])
    ends = values[[0, -1]]
    above = losses - _chord(places, ends)
    above[places == 0] = above[places == 1] = 0.0
    tolerance = TOLERANCE * float(np.max(np.abs(losses)))
    peak, top = (_highest(heights, len(alphas) - 1, tolerance) for heights in (above, losses))
    inner = above[1 : len(alphas) - 1]
    return Barrier(
        chord=float(above[peak]),
        chord_alpha=float(places[peak]),
        mean=float(losses[top] - ends.mean()),
        mean_alpha=float(places[top]),
        excess=float(above[peak] if above[peak] > 0 else inner.max()),
        tolerance=tolerance,
        share_above=float(np.mean(inner > tolerance)),
    )


def _highest(heights: np.ndarray, last: int, tolerance: float) -> int:
    """Where the maximum is: at an end (0 or `last`, 0 on ties) unless a point is above both by more than rounding.

    So identical networks have a barrier of 0 at alpha = 0.
    """
    end = 0 if heights[0] >= heights[last] else last
    best = int(np.argmax(heights))
    return best if heights[best] > heights[end] + tolerance else end


def _chord(alphas: np.ndarray, losses: np.ndarray) -> np.ndarray:
    return (1 - alphas) * losses[0] + alphas * losses[-1]
