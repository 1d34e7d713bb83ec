"""Principal components of points in weight space: checkpoints of one trajectory, of many pooled, or ends of a population.

Points may lie on disk and be far more than memory holds. Signs and order are fixed here and nowhere else: the largest
variance first, and of each direction and its negative the one that `fix_signs` takes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA

Centre = Literal["mean", "init", "final"]
Route = Literal["auto", "scikit-learn", "gram", "stream"]

MOST_BYTES = 2**28  # of points in float64, held at once
MOST_GRAM = 4096  # points; the Gram matrix of more would take more than 128 MB
GUARDS, MOST_BLOCKS, MOST_PASSES = 4, 6, 60  # of streaming: spare vectors, blocks kept, passes over the points
TOLERANCE = 1e-8  # |C v - lambda v| / lambda_1 that streaming has to reach


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components about an origin.

    Attributes:
        origin: what points are measured from, (param,); of several trajectories about their own ends (seed, param).
        directions: unit vectors, float64, from the largest variance down.
        coordinates: of the points, from the origin.
        explained: share of the (weighted) sum of squared distances from the origin along each direction.
        spectrum: the same of all components that are known: all that have a variance; when streaming those of `explained`.
        residuals: distance of each point from the affine space of the origin and the directions.
        total: (weighted) mean of the squared distance from the origin.
    """

    origin: Float[np.ndarray, "*own param"]
    directions: Float[np.ndarray, "axis param"]
    coordinates: Float[np.ndarray, "*batch axis"]
    explained: Float[np.ndarray, "axis"]
    spectrum: Float[np.ndarray, "component"]
    residuals: Float[np.ndarray, "*batch"]
    total: float


def principal_components(
    points: Any, num: int = 2, *, centre: Centre = "mean", weights: Float[np.ndarray, "*weighted"] | None = None,
    seeds: Sequence[int] | Int[np.ndarray, "_"] | None = None, route: Route = "auto", most_bytes: int = MOST_BYTES,
    progress: Callable[[str], None] = lambda text: None,
) -> Components:  # fmt: skip
    """Principal components of points in weight space, exact, in float64; never filter-normalised.

    With x_i the points, c the origin and w_i the weights they are the eigenvectors of largest eigenvalue of
    C = sum_i w_i (x_i - c)(x_i - c)^T / sum_i w_i. Routes to them:

    - `scikit-learn`: its PCA by a full SVD; equal weights, about the mean, points in memory.
    - `gram`: the eigenvectors of the points' inner products, added up over chunks of params: exact in one pass, and two more
      for directions and residuals. Memory: n^2 for n points and one chunk of params of all points.
    - `stream`: for more points than a Gram matrix can hold. Block Krylov iteration with Rayleigh-Ritz, one pass over rows of
      whole points for each block, until |C v - lambda v| <= TOLERANCE lambda_1. Memory: one block of rows and some tens of
      vectors of weight space, whatever the number of points; and the ends of all trajectories where they are the origin.

    Args:
        points: (point, param), or trajectories (seed, checkpoint, param): NumPy, JAX, or an array on disk that is read in
            parts (such as `run.theta`).
        num: components.
        centre: the weighted mean of all points, or every trajectory's own first or last point (the first or last point of
            two-dimensional `points`).
        weights: positive, one for each point or, of trajectories, for each checkpoint (`schedule_weights`); default: equal.
        seeds: positions along the first axis to use, e.g. those of converged seeds; default: all.
        route: default: scikit-learn where it can and the points fit into `most_bytes`, then gram up to MOST_GRAM points.
        most_bytes: of points held at once in float64.
        progress: told about passes over the points.

    Raises:
        ValueError: there are too few points, they span fewer dimensions (as equal networks do), are not finite, weights do
            not fit, the route cannot take the case, or streaming does not reach its tolerance.

    Source: Jolliffe 2002, Principal Component Analysis; Musco & Musco 2015, Randomized block Krylov methods, 1504.05477.
    """
    source = _Points(points, centre, weights, seeds, most_bytes)
    if not 1 <= num < source.num:
        raise ValueError(f"{num} principal components take at least {num + 1} points, got {source.num}")
    if num > source.num_params:
        raise ValueError(f"{num} principal components take as many params, got {source.num_params}")
    plain = centre == "mean" and source.equal
    if route == "auto":
        small = source.num * source.num_params * 8 <= most_bytes
        route = "scikit-learn" if plain and small else "gram" if source.num <= MOST_GRAM else "stream"
    if route == "scikit-learn" and not plain:
        raise ValueError("scikit-learn's PCA knows neither weights nor another centre than the mean: use another route")
    solve = {"scikit-learn": _by_scikit_learn, "gram": _by_gram, "stream": _by_streaming}[route]
    return solve(source, num, progress)


def schedule_weights(
    steps: Int[np.ndarray, "checkpoint"], by: Literal["checkpoint", "step"] = "checkpoint"
) -> Float[np.ndarray, "checkpoint"]:
    """How much each checkpoint counts; the sum is 1.

    Args:
        steps: of the checkpoints, ascending.
        by: `checkpoint`: all alike, so that dense parts of a schedule count more; `step`: by the training steps that each
            stands for, half of those to its neighbours (the trapezoid rule).

    Raises:
        ValueError: steps do not ascend, or there is a single checkpoint to be weighted by steps.
    """
    if np.any(np.diff(steps) <= 0) or len(steps) < (2 if by == "step" else 1):
        raise ValueError(f"steps = {steps.tolist()}: ascending steps are expected, two or more to weight by them")
    if by == "checkpoint":
        return np.full(len(steps), 1 / len(steps))
    between = np.diff(steps) / 2.0
    return (np.append(between, 0) + np.append(0, between)) / (steps[-1] - steps[0])


def fix_signs(rows: Float[np.ndarray, "axis param"]) -> Float[np.ndarray, "axis param"]:
    """Each direction, or its negative, so that its entry of the largest size is positive: the one rule for all."""
    largest = np.take_along_axis(rows, np.argmax(np.abs(rows), axis=1)[:, None], 1)
    return rows * np.where(largest < 0, -1.0, 1.0)


class _Points:
    """Points in memory or on disk, chosen, weighted and centred, read in parts as float64 rows."""

    def __init__(self, points: Any, centre: Centre, weights: Any, seeds: Any, most_bytes: int):
        self._held = isinstance(points, np.ndarray | jax.Array)
        self._points = np.asarray(points) if self._held else points
        if len(points.shape) not in (2, 3):
            raise ValueError(
                f"points have shape {points.shape}: (point, param) or (seed, checkpoint, param) is expected"
            )
        self._trajectories, self._centre, self._most = len(points.shape) == 3, centre, most_bytes
        self.rows = np.arange(points.shape[0]) if seeds is None else np.asarray(seeds, int)
        self.batch, self.num_params = (len(self.rows), *points.shape[1:-1]), points.shape[-1]
        self.num = math.prod(self.batch)
        if self.num == 0:
            raise ValueError("principal components got no points")
        self.equal = weights is None
        self.weights = np.full(self.num, 1 / self.num) if weights is None else self._checked(np.asarray(weights, float))

    def params(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(params, origin there, centred rows there): all points, a chunk of params at a time."""
        size = max(1, self._most // (8 * self.num))
        for low in range(0, self.num_params, size):
            part = slice(low, min(low + size, self.num_params))
            block = np.array(self._read(self.rows, part), np.float64).reshape(*self.batch, -1)
            self._check(block, self.rows)
            rows = block.reshape(self.num, -1)
            if self._centre == "mean":
                origin = self.weights @ rows
            else:
                own = block if self._trajectories else block[None]
                origin = own[:, 0 if self._centre == "init" else -1].copy()
                own -= origin[:, None]
                yield part, origin if self._trajectories and len(origin) > 1 else origin[0], rows
                continue
            yield part, origin, rows - origin

    def points(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(positions among the points, centred rows): whole points, a block at a time, each read once."""
        own = self.origins
        for at, rows in self._raw():
            yield at, rows - (own[at // self.batch[-1]] if len(own) > 1 else own)

    def all(self) -> np.ndarray:
        """All points as they are, in order."""
        rows = np.empty((self.num, self.num_params))
        for at, block in self._raw():
            rows[at] = block
        return rows

    @functools.cached_property
    def origins(self) -> np.ndarray:
        """What `points` subtracts: one for all, or one for each trajectory, (own, param)."""
        if self._centre == "mean":
            mean = np.zeros((1, self.num_params))
            for at, rows in self._raw():
                mean += self.weights[at] @ rows
            return mean
        place = 0 if self._centre == "init" else -1
        if self._trajectories:
            return self._read(self.rows, slice(None), place % self.batch[1]).astype(np.float64)
        return self._read(self.rows[[place]], slice(None)).astype(np.float64)

    def _raw(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        each = 1 if not self._held and self._trajectories else math.prod(self.batch[1:])  # checkpoints read together
        most = max(1, self._most // (8 * self.num_params * each))
        stored = getattr(self._points, "chunks", None)
        size = min(most, stored[0]) if stored else most
        for low in range(0, len(self.rows), size):
            rows, positions = self.rows[low : low + size], np.arange(self.num).reshape(self.batch)[low : low + size]
            for checkpoint in range(self.batch[1]) if each == 1 and self._trajectories else (None,):
                block = self._read(rows, slice(None), checkpoint)
                self._check(block, rows)
                at = positions if checkpoint is None else positions[:, checkpoint]
                yield at.ravel(), block.reshape(-1, self.num_params).astype(np.float64)

    def _read(self, rows: np.ndarray, part: slice, checkpoint: int | None = None) -> np.ndarray:
        array = self._points if self._held else getattr(self._points, "oindex", self._points)
        every = len(rows) == self._points.shape[0] and np.array_equal(rows, np.arange(len(rows)))
        first: Any = slice(None) if every else slice(rows[0], rows[-1] + 1) if _consecutive(rows) else rows
        middle = () if not self._trajectories else (slice(None) if checkpoint is None else checkpoint,)
        return np.asarray(array[(first, *middle, part)])

    def _check(self, block: np.ndarray, rows: np.ndarray) -> None:
        if not np.all(np.isfinite(block)):
            bad = rows[~np.isfinite(block.reshape(len(rows), -1)).all(axis=1)]
            raise ValueError(f"points at positions {bad.tolist()} along the first axis are not finite")

    def _checked(self, weights: np.ndarray) -> np.ndarray:
        if weights.shape not in ((self.batch[-1],), self.batch):
            raise ValueError(f"weights have shape {weights.shape}: {self.batch[-1:]} or {self.batch} is expected")
        if not np.all(np.isfinite(weights)) or not np.all(weights > 0):
            raise ValueError(f"weights = {weights.tolist()}: positive numbers are expected")
        return np.broadcast_to(weights / (weights.sum() * self.num / weights.size), self.batch).ravel()


def _by_scikit_learn(source: _Points, num: int, progress: Callable[[str], None]) -> Components:
    progress("principal components by scikit-learn")
    rows = source.all()
    with np.errstate(invalid="ignore"):  # equal points, which are refused below
        found = PCA(svd_solver="full").fit(rows)
    values = np.square(found.singular_values_) / len(rows)
    _check_span(values, num, source.num, found.mean_)
    directions = fix_signs(found.components_[:num])
    centred = rows - found.mean_
    coordinates = centred @ directions.T
    residuals = np.linalg.norm(centred - coordinates @ directions, axis=1)
    return _components(source, found.mean_, directions, coordinates, values, residuals, float(values.sum()), num)


def _by_gram(source: _Points, num: int, progress: Callable[[str], None]) -> Components:
    progress("inner products of all points")
    gram, origins = np.zeros((source.num, source.num)), []
    for _, origin, rows in source.params():
        gram += rows @ rows.T
        origins.append(origin)
    origin = np.concatenate(origins, axis=-1)
    root = np.sqrt(source.weights)
    values, vectors = np.linalg.eigh(root[:, None] * gram * root)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    _check_span(values, num, source.num, origin)
    leading = root[:, None] * vectors[:, :num] / np.sqrt(values[:num])
    progress("directions")
    raw = np.concatenate([leading.T @ rows for _, _, rows in source.params()], axis=1)
    # orthogonal already, but for the rounding of the Gram matrix where a variance is much smaller than the first
    orthonormal, triangle = np.linalg.qr(raw.T)
    directions = fix_signs(orthonormal.T)
    signs = np.sign(np.sum(directions * orthonormal.T, axis=1))
    coordinates = np.linalg.solve(triangle.T, (gram @ leading).T).T * signs  # but for rounding, which is `left`
    progress("distances from the plane")
    squares, left = np.zeros(source.num), np.zeros_like(coordinates)
    for part, _, rows in source.params():
        off = rows - coordinates @ directions[:, part]
        squares += np.square(off).sum(axis=1)
        left += off @ directions[:, part].T
    coordinates += left
    squares = (squares - np.square(left).sum(axis=1)).clip(0)
    total = float(source.weights @ np.diag(gram))
    return _components(source, origin, directions, coordinates, values, np.sqrt(squares), total, num)


def _by_streaming(source: _Points, num: int, progress: Callable[[str], None]) -> Components:
    progress("origin")
    origin, total = source.origins, 0.0
    rng = np.random.default_rng(0)  # where the iteration begins, not what it finds
    width = min(num + GUARDS, source.num_params)
    basis = block = np.linalg.qr(rng.standard_normal((source.num_params, width)))[0]
    image = np.zeros((source.num_params, 0))
    misses = np.full(width, np.inf)
    for number in range(MOST_PASSES):
        moved, total = _covariance(source, block)
        image = np.concatenate([image, moved], axis=1)
        inner = basis.T @ image
        values, vectors = np.linalg.eigh((inner + inner.T) / 2)
        values, vectors = values[::-1].clip(0), vectors[:, ::-1]
        ritz, ritz_image = basis @ vectors[:, :width], image @ vectors[:, :width]
        misses = np.linalg.norm(ritz_image - ritz * values[:width], axis=0) / max(values[0], np.finfo(float).tiny)
        progress(f"pass {number + 1}: largest relative residual {misses[:num].max():.1e}")
        if misses[:num].max() <= TOLERANCE:
            break
        if basis.shape[1] + width > MOST_BLOCKS * width:  # keep the best, forget the rest
            kept = min(2 * width, basis.shape[1])
            basis, image = basis @ vectors[:, :kept], image @ vectors[:, :kept]
        block = ritz_image - ritz * values[:width]
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
        sizes = np.linalg.norm(block, axis=0)
        room = source.num_params - basis.shape[1]
        block = np.linalg.qr(block[:, sizes > 1e-14 * values[0]][:, :room])[0]
        for _ in range(2):  # what is left of a block that is all but spent is rounding: keep it at right angles
            block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
        basis = np.concatenate([basis, block], axis=1)
    else:
        raise ValueError(
            f"streaming reached a relative residual of {misses[:num].max():.1e} in {MOST_PASSES} passes, {TOLERANCE:.0e} is "
            "expected: ask for fewer components, or use the Gram route"
        )
    _check_span(values, num, source.num, origin)
    directions = fix_signs(np.linalg.qr(ritz[:, :num])[0].T)
    coordinates, residuals = np.zeros((source.num, num)), np.zeros(source.num)
    progress("distances from the plane")
    for at, rows in source.points():
        coordinates[at] = rows @ directions.T
        residuals[at] = np.linalg.norm(rows - coordinates[at] @ directions, axis=1)
    own = origin if len(origin) > 1 else origin[0]
    return _components(source, own, directions, coordinates, values[:num], residuals, total, num)


def _covariance(source: _Points, vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """C V and the trace of C, in one pass over the points."""
    moved, total = np.zeros_like(vectors), 0.0
    for at, rows in source.points():
        weights = source.weights[at, None]
        moved += rows.T @ (weights * (rows @ vectors))
        total += float(np.sum(weights * np.square(rows)))
    return moved, total


def _components(
    source: _Points, origin: np.ndarray, directions: np.ndarray, coordinates: np.ndarray, values: np.ndarray,
    residuals: np.ndarray, total: float, num: int,
) -> Components:  # fmt: skip
    shares = values / total
    return Components(
        origin=origin,
        directions=directions,
        coordinates=coordinates.reshape(*source.batch, num),
        explained=shares[:num],
        spectrum=shares[shares > 1e-15],
        residuals=residuals.reshape(source.batch),
        total=total,
    )


def _check_span(values: np.ndarray, num: int, num_points: int, origin: np.ndarray) -> None:
    rounding = num_points * np.finfo(float).eps * float(np.max(np.linalg.norm(np.atleast_2d(origin), axis=1)))
    if len(values) < num or not values[num - 1] > max(1e-12 * values[0], rounding**2):
        raise ValueError(f"the {num_points} points span fewer than {num} dimensions")


def _consecutive(rows: np.ndarray) -> bool:
    return bool(np.all(np.diff(rows) == 1))
