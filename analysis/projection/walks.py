"""The null beside every picture of a trajectory: random walks with the same step norms.

Principal components of a walk without any direction already look like smooth curves and hold most of the variance in few
components, so neither says that training has a direction. A walk takes the trajectory's own step norms in independent,
isotropic directions of weight space; its spectrum and its components are what a picture has to differ from.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from analysis.projection.points import Centre
from analysis.threads import in_threads

NUM_WALKS = 999


@dataclasses.dataclass(frozen=True)
class Null:
    """Spectra of trajectories beside those of random walks with their step norms; each trajectory is taken for itself.

    Attributes:
        shares: of the variance, along each principal component of each trajectory.
        walks: the same of random walks, `(walk, seed, component)`.
        expected: the same for infinitely many params, in closed form.
        curves: the components over time, with a weighted sum of squares of 1 and the signs that fit `expected_curves`.
        expected_curves: those of a walk in infinitely many dimensions: cosines, where steps are equal. The first trajectory
            that moves has them begin (or, at rest there, end) above zero; the others' signs fit its.
        fit: R^2 of each component against its expected curve.
        walks_fit: the same of the walks.
        p_shares: of the mean over seeds of each share: how often walks are as far from their own middle, on either side.
        p_fit: of the mean over seeds of each R^2: how often walks fit as badly.
    """

    shares: Float[np.ndarray, "seed component"]
    walks: Float[np.ndarray, "walk seed component"]
    expected: Float[np.ndarray, "seed component"]
    curves: Float[np.ndarray, "seed checkpoint component"]
    expected_curves: Float[np.ndarray, "seed checkpoint component"]
    fit: Float[np.ndarray, "seed component"]
    walks_fit: Float[np.ndarray, "walk seed component"]
    p_shares: Float[np.ndarray, "component"]
    p_fit: Float[np.ndarray, "component"]


def compare(
    gram: Float[np.ndarray, "seed checkpoint checkpoint"],
    num_params: int,
    num: int = 5,
    *,
    centre: Centre = "mean",
    weights: Float[np.ndarray, "checkpoint"] | None = None,
    num_walks: int = NUM_WALKS,
    rng: np.random.Generator,
) -> Null:
    """Trajectories, each for itself, beside random walks with the same step norms in as many dimensions.

    The spectrum, the components over time and the step norms of a trajectory are functions of its inner products alone.

    Args:
        gram: <theta_t - theta_0, theta_u - theta_0> of each trajectory: `grams` computes them.
        num_params: dimension P of weight space.
        num: components.
        centre: what is subtracted: the (weighted) mean, the first or the last checkpoint.
        weights: of the checkpoints; default: all alike.
        num_walks: for each trajectory.
        rng: source of the walks.

    Returns:
        NaN for a trajectory that does not move, which is left out of the tests.

    Raises:
        ValueError: there are too few checkpoints for `num` components, the Gram matrices are not finite, or weights are
            not positive numbers, one for each checkpoint.

    Source: Antognini & Sohl-Dickstein 2018, PCA of high dimensional random walks with comparison to neural network
    training, 1806.08805.
    """
    length = gram.shape[1]
    if not 1 <= num < length:
        raise ValueError(f"{num} components take at least {num + 1} checkpoints, got {length}")
    if not np.all(np.isfinite(gram)):
        raise ValueError(f"trajectories {np.flatnonzero(~np.isfinite(gram).all(axis=(1, 2))).tolist()} are not finite")
    weight = _weights(weights, length)
    norms = step_norms(gram)
    shares, curves = _components(gram, centre, weight, num)
    expected, expected_curves = _components(expected_gram(norms), centre, weight, num)
    first = expected_curves[np.argmax(norms.sum(axis=1) > 0)]
    first = first * _sign(first[-1 if centre == "init" else 0])
    expected_curves = expected_curves * _sign(np.sum(expected_curves * first, axis=1, keepdims=True))

    def drawn(own):
        shares, curves = _components(_walk_grams(norms, num_params, own), centre, weight, num)
        return shares, _fit(curves, expected_curves)

    found, fits = zip(*in_threads(drawn, rng.spawn(num_walks), 1), strict=True)  # many small steps: threads would wait
    walks, walks_fit, fit = np.array(found), np.array(fits), _fit(curves, expected_curves)
    moves = norms.sum(axis=1) > 0
    mean = lambda values: values[..., moves, :].mean(axis=-2)  # noqa: E731
    none, root = np.full(num, np.nan), np.sqrt(weight)[:, None]
    return Null(
        shares=shares,
        walks=walks,
        expected=expected,
        curves=curves * _sign(np.sum(curves * expected_curves, axis=1, keepdims=True)) / root,
        expected_curves=expected_curves / root,
        fit=fit,
        walks_fit=walks_fit,
        p_shares=p_value(mean(shares), mean(walks)) if moves.any() else none,
        p_fit=p_value(mean(fit), mean(walks_fit), "smaller") if moves.any() else none,
    )


def pooled_walks(
    theta: Float[np.ndarray, "seed checkpoint param"],
    num: int = 2,
    *,
    centre: Centre = "mean",
    weights: Float[np.ndarray, "checkpoint"] | None = None,
    num_walks: int = 99,
    rng: np.random.Generator,
) -> Float[np.ndarray, "walk component"]:
    """Shares of the variance of all points of several random walks, pooled: the starts and step norms are those of theta.

    Args:
        theta: trajectories.
        num, weights, num_walks, rng: as in `compare`.
        centre: the mean of all points, or every trajectory's own first or last one.

    Raises:
        ValueError: there are as many components as points or more, or weights are not positive.
    """
    num_seeds, length, num_params = theta.shape
    if not 1 <= num < num_seeds * length:
        raise ValueError(f"{num} components take at least {num + 1} points, got {num_seeds * length}")
    norms = step_norms(grams(theta))
    starts = _coordinates(theta[:, 0].astype(np.float64))
    weight = np.tile(_weights(weights, length), num_seeds)

    def drawn(own):
        points = walk(norms, num_params, starts=starts, rng=own)
        if centre != "mean":
            points = points - (points[:, :1] if centre == "init" else points[:, -1:])
        rows = points.reshape(num_seeds * length, -1)
        return _shares(rows - (weight @ rows / weight.sum() if centre == "mean" else 0), weight, num)

    return np.array(in_threads(drawn, rng.spawn(num_walks)))


def scattered(
    points: Float[np.ndarray, "seed param"], num: int = 2, *, num_draws: int = 999, rng: np.random.Generator
) -> Float[np.ndarray, "draw component"]:
    """Shares of the variance of points as far from the origin as these, in independent directions: a null of endpoints.

    Args:
        points: one for each seed.
        num: components.
        num_draws: populations drawn.
        rng: source of the directions.

    Raises:
        ValueError: there are as many components as points or more.
    """
    if not 1 <= num < len(points):
        raise ValueError(f"{num} components take at least {num + 1} points, got {len(points)}")
    norms = np.linalg.norm(points.astype(np.float64), axis=1)[:, None]

    def drawn(own):
        rows = walk(norms, points.shape[1], rng=own)[:, 1]
        return _shares(rows - rows.mean(axis=0), np.ones(len(rows)), num)

    return np.array(in_threads(drawn, rng.spawn(num_draws)))


def walk(
    norms: Float[np.ndarray, "seed step"],
    num_params: int,
    *,
    starts: Float[np.ndarray, "seed start"] | None = None,
    rng: np.random.Generator,
) -> Float[np.ndarray, "seed checkpoint coordinate"]:
    """Random walks: theta_t = start + sum_{k <= t} norm_k u_k, u_k independent and uniform on the unit sphere of R^P.

    Exact in distribution up to a rotation, and cheap for any P: the n directions of R^P are those of the rows of an n x n
    triangular factor of a Wishart matrix (Bartlett 1933), and the rotation does not change any distance or spectrum.

    Args:
        norms: of the steps.
        num_params: P.
        starts: in an orthonormal basis of a space of at most P dimensions, which are the first coordinates.
        rng: source of the directions.

    Returns:
        (seed, checkpoint, coordinate): coordinates in an orthonormal basis, at most P.
    """
    num_seeds, num_steps = norms.shape
    at = np.zeros((num_seeds, 0)) if starts is None else starts
    fixed, num = at.shape[1], num_seeds * num_steps
    if fixed > num_params:
        raise ValueError(f"starts have {fixed} coordinates, weight space has {num_params}")
    rows = _directions(1, num, num_params - fixed, rng)[0] if fixed < num_params else np.zeros((num, 0))
    if fixed:  # the share of a direction's length that lies in the space of the starts
        inside = rng.standard_normal((num, fixed))
        length = np.sqrt(rng.chisquare(num_params - fixed, (num, 1))) if fixed < num_params else np.zeros((num, 1))
        rows = np.concatenate([inside, length * rows], axis=1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    steps = rows * norms.reshape(-1, 1)
    points = np.zeros((num_seeds, num_steps + 1, rows.shape[1]))
    points[:, 1:] = np.cumsum(steps.reshape(num_seeds, num_steps, -1), axis=1)
    points[:, :, :fixed] += at[:, None]
    return points


def grams(theta: Float[np.ndarray, "seed checkpoint param"]) -> Float[np.ndarray, "seed checkpoint checkpoint"]:
    """<theta_t - theta_0, theta_u - theta_0> of each trajectory, in float64.

    Args:
        theta: an array; one trajectory is converted at a time.
    """
    found = []
    for seed in range(theta.shape[0]):
        rows = theta[seed].astype(np.float64)
        rows -= rows[:1].copy()
        found.append(rows @ rows.T)
    return np.array(found)


def step_norms(gram: Float[np.ndarray, "*seed checkpoint checkpoint"]) -> Float[np.ndarray, "*seed step"]:
    """|theta_{t+1} - theta_t| from inner products."""
    own = np.einsum("...tt->...t", gram)
    between = np.einsum("...tt->...t", gram[..., 1:, :-1])
    return np.sqrt((own[..., 1:] + own[..., :-1] - 2 * between).clip(0))


def expected_gram(norms: Float[np.ndarray, "*seed step"]) -> Float[np.ndarray, "*seed checkpoint checkpoint"]:
    """E <theta_t - theta_0, theta_u - theta_0> = sum of norm_k^2 over k <= min(t, u), in any number of dimensions."""
    far = np.concatenate([np.zeros((*norms.shape[:-1], 1)), np.cumsum(np.square(norms), axis=-1)], axis=-1)
    return np.minimum(far[..., :, None], far[..., None, :])


def cosine_shares(num: int, centre: Centre = "mean") -> Float[np.ndarray, "component"]:
    """Shares of a walk of infinitely many equal steps in infinitely many dimensions.

    6 / (pi k)^2 about the mean (0.608, 0.152, ..); 8 / (pi (2k - 1))^2 about an end (0.811, 0.090, ..).
    """
    k = np.arange(1, num + 1)
    return 6 / (math.pi * k) ** 2 if centre == "mean" else 8 / (math.pi * (2 * k - 1)) ** 2


def p_value(
    observed: float | Float[np.ndarray, "*kind"],
    null: Float[np.ndarray, "draw *kind"],
    side: Literal["both", "smaller", "larger"] = "both",
) -> Float[np.ndarray, "*kind"]:
    """Monte Carlo p-value (1 + draws at least as extreme) / (1 + draws); for both sides twice the smaller one, at most 1.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, chapter 4.
    """
    larger = (1 + np.sum(null >= observed, axis=0)) / (1 + len(null))
    smaller = (1 + np.sum(null <= observed, axis=0)) / (1 + len(null))
    both = np.minimum(1, 2 * np.minimum(larger, smaller))
    return np.asarray({"larger": larger, "smaller": smaller, "both": both}[side])


def _walk_grams(norms: np.ndarray, num_params: int, rng: np.random.Generator) -> np.ndarray:
    """Gram matrices of independent walks, one for each row of norms."""
    steps = _directions(len(norms), norms.shape[1], num_params, rng) * norms[..., None]
    points = np.cumsum(np.pad(steps, ((0, 0), (1, 0), (0, 0))), axis=1)
    return points @ points.transpose(0, 2, 1)


def _directions(batch: int, num: int, num_params: int, rng: np.random.Generator) -> np.ndarray:
    """(batch, num, coordinate): independent unit vectors of R^P, in an orthonormal basis of what each batch spans."""
    if num < num_params:
        rows = np.tril(rng.standard_normal((batch, num, num)), -1)
        at = np.arange(num)
        rows[:, at, at] = np.sqrt(rng.chisquare(num_params - at, (batch, num)))
    else:
        rows = rng.standard_normal((batch, num, num_params))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _components(gram: np.ndarray, centre: Centre, weights: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares (..., component) and, over time, unit components (..., checkpoint, component), weighted; NaN without motion."""
    length = gram.shape[-1]
    at = {"mean": weights / weights.sum(), "init": np.eye(length)[0], "final": np.eye(length)[-1]}[centre]
    shift = np.eye(length) - at[None, :]  # theta - at . theta
    root = np.sqrt(weights)[:, None] * shift
    values, vectors = np.linalg.eigh(root @ gram @ root.T)
    values, vectors = values[..., ::-1].clip(0), vectors[..., ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = values[..., :num] / values.sum(axis=-1, keepdims=True)
    return shares, vectors[..., :num] + 0 * shares[..., None, :]


def _shares(rows: np.ndarray, weights: np.ndarray, num: int) -> np.ndarray:
    """Of the weighted sum of squares of rows, along each of the first components."""
    scaled = np.sqrt(weights)[:, None] * rows
    gram = scaled @ scaled.T if len(scaled) <= scaled.shape[1] else scaled.T @ scaled
    values = np.linalg.eigvalsh(gram)[::-1].clip(0)
    return np.pad(values, (0, max(0, num - len(values))))[:num] / values.sum()


def _coordinates(points: np.ndarray) -> np.ndarray:
    """Of points about their mean, in an orthonormal basis of what they span."""
    left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    there = values > 1e-12 * values.max(initial=0)
    return left[:, there] * values[there]


def _sign(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, -1, 1)


def _fit(curves: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """R^2 of regressing each component on its expected curve: both have unit length."""
    return np.sum(curves * expected, axis=-2) ** 2


def _weights(weights: np.ndarray | None, length: int) -> np.ndarray:
    if weights is None:
        return np.ones(length)
    if np.shape(weights) != (length,) or not np.all(np.isfinite(weights)) or not np.all(weights > 0):
        raise ValueError(f"weights = {weights}: {length} positive numbers are expected, one for each checkpoint")
    return np.asarray(weights, np.float64)
