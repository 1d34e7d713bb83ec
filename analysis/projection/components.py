"""Principal components of points in weight space: checkpoints of one trajectory, of many pooled, or ends of a population.

Points may lie on disk and be far more than memory holds. Signs and order are fixed here and nowhere else: the largest
variance first, and of each direction and its negative the one that `fix_signs` takes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int, Num
from sklearn.decomposition import PCA

from analysis.projection.points import Centre, Points
from analysis.threads import in_threads
from wspace.cores import num_cores

Route = Literal["auto", "scikit-learn", "gram", "stream"]

MOST_BYTES = 2**30  # of points held at once
MOST_SVD = 2**31  # num * params * the smaller of both: what a full SVD does in a second or two
MOST_GRAM = 4096  # rows of a Gram matrix, which is 128 MB then and takes seconds to decompose
GUARDS, MOST_BLOCKS, KEPT_BLOCKS, MOST_PASSES = 8, 6, 2, 100  # of streaming: spare vectors, blocks, passes over points
TOLERANCE = 1e-8  # |C v - lambda v| / lambda_1 that streaming has to reach
FLAT = 1e-12  # of the first variance: no variance
PIECE = 2**21  # values subtracted at once, and below which threads are not worth while


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components about an origin; float64.

    Attributes:
        origin: what points are measured from, (param,); of several trajectories about their own ends (seed, param), in the
            dtype of the points.
        directions: unit vectors, at right angles, from the largest variance down.
        coordinates: of the points, from the origin.
        explained: share of the (weighted) mean squared distance from the origin along each direction.
        spectrum: the same of all components that are known: all that are not zero up to rounding, the leading ones when
            streaming.
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
    points: Any, num: int = 2, *, centre: Centre = "mean", weights: Num[np.ndarray, "*weighted"] | None = None,
    seeds: Sequence[int] | Int[np.ndarray, "_"] | None = None, route: Route = "auto", most_bytes: int = MOST_BYTES,
    tolerance: float = TOLERANCE, progress: Callable[[str], None] = lambda text: None,
) -> Components:  # fmt: skip
    """Principal components of points in weight space, exact, in float64; never filter-normalised.

    With x_i the points, c_i their origin and w_i their weights they are the eigenvectors of largest eigenvalue of
    C = sum_i w_i (x_i - c_i)(x_i - c_i)^T / sum_i w_i. Routes to them:

    - `scikit-learn`: its PCA by a full SVD; equal weights, about the mean, points in memory.
    - `gram`: the eigenvectors of all inner products of points, added up over slices of params, or of C itself where there
      are fewer params than points. From disk every chunk is read twice, and once for each slice of `most_bytes`, or four
      times.
    - `stream`: block Krylov iteration with Rayleigh-Ritz and restarts, every chunk read once a pass, until
      |C v - lambda v| <= tolerance lambda_1; the last pass checks it. Some ten to forty passes, more where variances differ
      less; SciPy's lobpcg took about twice as many or more. Directions are then right up to an angle of about
      tolerance lambda_1 / gap.

    Memory: `most_bytes`, two chunks, the Gram matrix, and vectors of weight space: some num for `gram`, at most
    (MOST_BLOCKS + 6)(num + GUARDS) for `stream`, whatever the number of points; and the origins, where each trajectory has
    its own.

    Args:
        points: (point, param), or trajectories (seed, checkpoint, param): NumPy, JAX, or an array on disk that is read in
            parts (such as `run.theta`).
        num: components.
        centre: the weighted mean of all points, pooled; or every trajectory's own first or last point, whatever its weight
            (of two-dimensional `points` the first or the last one).
        weights: not negative, one for each checkpoint, the same for all trajectories (`schedule_weights`), or for each
            chosen point; default: equal. A point of weight 0 has coordinates and a residual, but no say.
        seeds: positions along the first axis to use, e.g. those of converged seeds; chunks without any are not read.
            Default: all.
        route: default: scikit-learn where it can and takes no more than seconds (MOST_SVD), gram where the points or the
            params are no more than MOST_GRAM, else stream.
        most_bytes: of points held at once.
        tolerance: of streaming.
        progress: told about passes over the points.

    Raises:
        ValueError: there are too few points, they span fewer dimensions up to the rounding of their params (as equal
            networks do), are not finite, weights or seeds do not fit, the route cannot take the case, or streaming does not
            reach its tolerance.

    Source: Jolliffe 2002, Principal Component Analysis; Stewart 2001, A Krylov-Schur algorithm for large eigenproblems, for
    blocks; Musco & Musco 2015, Randomized block Krylov methods, 1504.05477.
    """
    source = Points(points, centre, weights, seeds, most_bytes)
    if not 1 <= num < source.num_counted:
        raise ValueError(
            f"{num} principal components take at least {num + 1} points, got {source.num_counted}"
            + (f" whose weight is not 0, of {source.num}" if source.num_counted < source.num else "")
            if num >= 1
            else f"num = {num}: at least one component is expected"
        )
    if num > source.num_params:
        raise ValueError(f"{num} principal components take as many params, got {source.num_params}")
    if route not in get_args(Route):
        raise ValueError(f"route = {route!r}: one of {get_args(Route)} is expected")
    plain, smaller = centre == "mean" and source.equal, min(source.num, source.num_params)
    if route == "auto":
        quick = source.num * source.num_params * smaller <= MOST_SVD
        route = "scikit-learn" if plain and quick else "gram" if smaller <= MOST_GRAM else "stream"
    if route == "scikit-learn" and not plain:
        raise ValueError("scikit-learn's PCA knows neither weights nor another centre than the mean: use another route")
    if route == "gram" and smaller > MOST_GRAM:
        raise ValueError(
            f"the Gram matrix of {source.num} points with {source.num_params} params takes {8e-9 * smaller**2:.0f} GB: use "
            "the route stream"
        )
    if route == "scikit-learn":
        solve = lambda: _by_scikit_learn(source, num, progress)  # noqa: E731
    elif route == "gram":
        solve = lambda: _by_gram(source, num, progress)  # noqa: E731
    else:
        solve = lambda: _by_streaming(source, num, tolerance, progress)  # noqa: E731
    # One BLAS thread for all of it: on a machine that others use as well several wait for each other ten times as long
    # as they work. Large products are divided among threads of our own.
    return in_threads(lambda solve: solve(), [solve], 1)[0]


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
    if by not in ("checkpoint", "step"):
        raise ValueError(f"by = {by!r}: checkpoint or step is expected")
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


def _by_scikit_learn(source: Points, num: int, progress: Callable[[str], None]) -> Components:
    progress("principal components by scikit-learn")
    with np.errstate(divide="ignore", invalid="ignore"):  # its shares of nothing, when all points are equal
        found = PCA(svd_solver="full").fit(source.everything())
    values = np.square(found.singular_values_) / source.num
    return _finish(source, np.asarray(found.components_)[:num], values, None)


def _by_gram(source: Points, num: int, progress: Callable[[str], None]) -> Components:
    root = np.sqrt(source.weights)[:, None]
    dual = source.num <= source.num_params
    gram = np.zeros((min(source.num, source.num_params),) * 2)
    progress("inner products")
    if dual:
        for rows in source.slices():
            rows *= root
            gram += _summed(lambda part, rows=rows: rows[:, part] @ rows[:, part].T, rows.shape[1], rows.size)
    else:
        for at, rows in source.blocks():
            rows *= root[at]
            gram += _summed(lambda part, rows=rows: rows[part].T @ rows[part], len(rows), rows.size)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    _check_span(values, num, source)
    progress("directions")
    if dual:
        leading, directions = root * vectors[:, :num] / np.sqrt(values[:num]), np.zeros((num, source.num_params))
        for at, rows in source.blocks():
            own = leading[at]
            directions += _summed(lambda part, own=own, rows=rows: own[part].T @ rows[part], len(rows), rows.size)
    else:
        directions = _covariance(source, vectors[:, :num].T)
    # at right angles already, but for the rounding of the Gram matrix where a variance is much smaller than the first
    directions = _orthonormal(directions)
    progress("coordinates")
    return _finish(source, directions, values, None)


def _by_streaming(source: Points, num: int, tolerance: float, progress: Callable[[str], None]) -> Components:
    """C B = B T + (what is left of C times the last block) for the orthonormal basis B; then that is the next block."""
    width = min(num + GUARDS, source.num_params)
    block = _first_block(source, width, progress)
    room, size, inner = np.empty((MOST_BLOCKS * width, source.num_params)), 0, np.zeros((0, 0))
    missing = np.full(num, np.inf)
    for number in range(1, MOST_PASSES + 1):
        old, size = size, size + len(block)
        room[old:size] = block
        basis, left = room[:size], _covariance(source, block)
        products = np.zeros((size, len(block)))
        for _ in range(2):  # once more for rounding
            part = basis @ left.T
            left -= part.T @ basis
            products += part
        inner = np.block([[inner, products[:old]], [products[:old].T, (products[old:] + products[old:].T) / 2]])
        values, vectors = np.linalg.eigh(inner)
        values, vectors = values[::-1], vectors[:, ::-1]
        block, triangle = _next_block(left, basis, values[0])
        missing = np.linalg.norm(triangle @ vectors[old:, :num], axis=0) / max(values[0], np.finfo(float).tiny)
        progress(f"pass {number} over the points: relative residual {missing.max():.1e}, {tolerance:.0e} is wanted")
        if missing.max() <= tolerance / 2 or len(block) == 0:
            break
        if size + len(block) > len(room):  # keep the best, forget the rest
            size = min(size, KEPT_BLOCKS * width)
            room[:size], inner = vectors[:, :size].T @ basis, np.diag(values[:size])
    else:
        raise ValueError(
            f"streaming reached a relative residual of {missing.max():.1e} in {MOST_PASSES} passes, {tolerance:.0e} is "
            "expected: ask for fewer components, or for a larger tolerance"
        )
    del block, left
    values = values.clip(0)
    _check_span(values, num, source)
    progress("coordinates")
    return _finish(source, vectors[:, :num].T @ basis, values[:num], tolerance)


def _first_block(source: Points, width: int, progress: Callable[[str], None]) -> np.ndarray:
    """Random; where the mean has to be found, random combinations of the points less the mean, which are closer."""
    rng = np.random.default_rng(0)  # where the iteration begins, not what it finds
    if source.own:
        return _orthonormal(rng.standard_normal((width, source.num_params)))
    progress("the mean")
    factors = rng.standard_normal((source.num, width)) * np.sqrt(source.weights)[:, None]
    mixed = np.zeros((width, source.num_params))

    def mix(at: np.ndarray, rows: np.ndarray) -> None:
        mixed[:] += factors[at].T @ rows

    mean = source.mean(mix)
    mixed -= factors.sum(axis=0)[:, None] * mean
    mixed += 1e-8 * np.linalg.norm(mixed) / np.sqrt(mixed.size) * rng.standard_normal(mixed.shape)  # if they are fewer
    return _orthonormal(mixed)


def _next_block(left: np.ndarray, basis: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(orthonormal rows, at right angles to the basis, that span what is left; triangle: what is left in their terms)."""
    found: Any = scipy.linalg.qr(left.T, mode="economic", pivoting=True, check_finite=False)
    q, r, order = found
    triangle = np.empty_like(r)
    triangle[:, order] = r
    rank = min(len(left.T) - len(basis), int(np.sum(np.abs(np.diag(r)) > 1e-14 * scale)))
    block = q[:, :rank].T
    for _ in range(2):  # directions of little length may lean on the basis by rounding
        block = (
            block - (basis @ block.T).T @ basis
        )  # a product of few rows with many columns is slow the other way round
    return _orthonormal(block) if rank else block, triangle


def _covariance(source: Points, vectors: np.ndarray) -> np.ndarray:
    """C times each of the vectors, rows, in one pass over the points."""
    moved = np.zeros_like(vectors)
    for at, rows in source.blocks():
        weights = source.weights[at, None]

        def product(part: slice, rows: np.ndarray = rows, weights: np.ndarray = weights) -> np.ndarray:
            return (weights[part] * (rows[part] @ vectors.T)).T @ rows[part]

        moved += _summed(product, len(rows), rows.size)
    return moved


def _finish(source: Points, directions: np.ndarray, values: np.ndarray, tolerance: float | None) -> Components:
    """Coordinates and residuals, in one pass, and the components within the span of directions as exact as they can be.

    Args:
        source: of the points.
        directions: orthonormal, of the span of the leading components.
        values: variances along all components that are known.
        tolerance: of the residual, checked in the same pass; None: nothing to check.
    """
    num = len(directions)
    coordinates, residuals, squares = np.empty((source.num, num)), np.empty(source.num), np.empty(source.num)
    moved = np.zeros_like(directions)
    for at, rows in source.blocks():

        def project(part: slice, at: np.ndarray = at, rows: np.ndarray = rows) -> np.ndarray:
            some, rows = at[part], rows[part]
            own = rows @ directions.T
            coordinates[some] = own
            residuals[some] = np.sqrt(_take_off(rows, own, directions))
            squares[some] = np.einsum("ip,ip->i", rows, rows)
            return np.zeros(1) if tolerance is None else (source.weights[some, None] * own).T @ rows

        moved += _summed(project, len(rows), rows.size)
    total = float(source.weights @ squares)
    # variances from coordinates, not from a Gram matrix: exact also where they are much smaller than the first
    _, roots, turn = np.linalg.svd(np.sqrt(source.weights)[:, None] * coordinates, full_matrices=False)
    leading = np.square(roots)
    _check_span(leading, num, source)
    turned = turn @ directions
    if tolerance is not None:
        missing = np.linalg.norm(turn @ moved - leading[:, None] * turned, axis=1).max() / leading[0]
        if not missing <= tolerance:
            raise ValueError(
                f"streaming ended with a relative residual of {missing:.1e}, {tolerance:.0e} is expected: raise tolerance"
            )
    fixed = fix_signs(turned)
    signs = np.where(np.einsum("ap,ap->a", fixed, turned) < 0, -1.0, 1.0)
    coordinates = coordinates @ turn.T * signs
    shares = np.concatenate([leading, values[num:]]) / total
    known = shares > max(min(source.num, source.num_params) * np.finfo(float).eps, 1e-14) * shares[0]
    return Components(
        origin=source.origin(),
        directions=fixed,
        coordinates=coordinates.reshape(*source.batch, num),
        explained=shares[:num],
        spectrum=shares[known],
        residuals=residuals.reshape(source.batch),
        total=total,
    )


def _summed(function: Callable[[slice], np.ndarray], num: int, work: int) -> np.ndarray:
    """The sum of function(part) over parts of range(num), on all cores where there is enough to do."""
    size = -(-num // (num_cores() if work > PIECE else 1))
    first, *others = (slice(low, low + size) for low in range(0, num, size))
    if not others:
        return function(first)
    return sum(in_threads(function, [first, *others]), np.zeros(()))


def _take_off(rows: np.ndarray, coordinates: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Squared lengths of rows less their projections."""
    squares, size = np.zeros(len(rows)), max(1, PIECE // len(rows))
    for low in range(0, rows.shape[1], size):
        part = rows[:, low : low + size] - coordinates @ directions[:, low : low + size]
        squares += np.einsum("ip,ip->i", part, part)
    return squares


def _check_span(values: np.ndarray, num: int, source: Points) -> None:
    """Refuse variances that are zero beside the first, or no more than what rounding of params makes."""
    rounding = source.precision * source.farthest
    if len(values) < num or not values[num - 1] > max(FLAT * values[0], rounding**2):
        raise ValueError(
            f"the {source.num} points span fewer than {num} dimensions: their largest variances are "
            f"{', '.join(f'{value:.1e}' for value in values[:num])}, rounding of params alone makes {rounding**2:.1e}"
        )


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    return np.linalg.qr(rows.T)[0].T
