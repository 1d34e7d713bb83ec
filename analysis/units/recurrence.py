"""Recurring units: which units come back in other restarts, what they agree on, and the types that they fall into.

A unit is any vector that describes it: its template, or what it does on a set of examples. Two are alike by their cosine.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from analysis.statistics import Estimate, median

MOST_UNITS = 8192  # of all seeds together: half a gigabyte of cosines
LEVEL = 0.95  # quantile of the null that a unit has to exceed to count as recurring


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """Units of restarts that are aligned, so that unit j is the same one in all: how far each seed agrees with the others.

    Attributes:
        consensus: mean over seeds of the units' directions, (unit, feature); its length, in [0, 1], is 1 where all agree
            and about 1/sqrt(seeds) where they have nothing in common.
        agreement: cosine of each seed's unit with the consensus of the other seeds, (seed, unit); 0 for units of length 0.
        null: the same of units without anything in common but their alignment, (null seed, unit).
        threshold: LEVEL quantile of the null.
        recurs: agreement above the threshold.
        rate: median over seeds of the share of units that recur, with its interval.
        expected: share of the null above the threshold: 1 - LEVEL.
    """

    consensus: Float[np.ndarray, "unit feature"]
    agreement: Float[np.ndarray, "seed unit"]
    null: Float[np.ndarray, "other unit"]
    threshold: float
    recurs: Bool[np.ndarray, "seed unit"]
    rate: Estimate
    expected: float

    @property
    def rates(self) -> Float[np.ndarray, "unit"]:
        """Share of seeds in which each unit recurs."""
        return self.recurs.mean(axis=0)


@dataclasses.dataclass(frozen=True)
class Types:
    """Units of all seeds in groups of like direction, largest first; no alignment is needed.

    Attributes:
        labels: the type of each unit, 0 for the largest, (seed, unit).
        centres: mean direction of each type, (type, feature).
        sizes: units in each type.
        spread: share of the seeds that have a unit of each type.
        threshold: two units of one type have at least this cosine.
        shared: share of each seed's units whose type another seed has as well, (seed,).
        null_shared: the same of units that have nothing in common, grouped at the same threshold, (null seed,).
    """

    labels: Int[np.ndarray, "seed unit"]
    centres: Float[np.ndarray, "type feature"]
    sizes: Int[np.ndarray, "type"]
    spread: Float[np.ndarray, "type"]
    threshold: float
    shared: Float[np.ndarray, "seed"]
    null_shared: Float[np.ndarray, "other"]


def recurrence(
    units: Float[np.ndarray, "seed unit feature"], null: Float[np.ndarray, "other unit feature"], *,
    rng: np.random.Generator,
) -> Recurrence:  # fmt: skip
    """Which units of aligned restarts come back, beside a null that was aligned in the same way.

    Alignment makes units alike even where they have nothing in common: what counts is agreement beyond that. The null has
    the same shape of network and the same alignment, e.g. the same seeds before training.

    Args:
        units: aligned: unit j of every seed is matched.
        null: aligned likewise; as many seeds, because the consensus of fewer is noisier.
        rng: source of the resamples of seeds.

    Raises:
        ValueError: there are fewer than three seeds, shapes differ, or a value is not finite.
    """
    if (
        units.shape != null.shape
        or len(units) < 3
        or units.size == 0
        or not (np.all(np.isfinite(units)) and np.all(np.isfinite(null)))
    ):
        raise ValueError(
            f"units {units.shape} and null {null.shape}: at least three seeds, finite and of one shape, are expected"
        )
    directions = _directions(units)
    agreement, chance = _agreement(directions), _agreement(_directions(null))
    threshold = float(np.quantile(chance, LEVEL))
    recurs = agreement > threshold
    rate = median(recurs.mean(axis=1), rng=rng, unit="share")
    expected = float(np.mean(chance > threshold))
    return Recurrence(directions.mean(axis=0), agreement, chance, threshold, recurs, rate, expected)


def types(units: Float[np.ndarray, "seed unit feature"], null: Float[np.ndarray, "other unit feature"]) -> Types:
    """Groups of units, over all seeds, whose directions are all alike: complete linkage by cosine.

    Units are matched by nothing but direction. A unit and its negative are two types: where a model can flip units, as tanh
    does, hand on aligned ones.

    The threshold is what a unit's best match in another seed exceeds in 1 - LEVEL of the cases where units have nothing in
    common: the LEVEL quantile, over units of the null and pairs of its seeds, of the largest cosine.

    Args:
        units: (seed, unit, feature), in any order.
        null: e.g. the same seeds before training.

    Raises:
        ValueError: there are fewer than two seeds or more than MOST_UNITS units, shapes differ, or a value is not finite.
    """
    if (
        units.shape != null.shape
        or len(units) < 2
        or units.size == 0
        or not (np.all(np.isfinite(units)) and np.all(np.isfinite(null)))
    ):
        raise ValueError(
            f"units {units.shape} and null {null.shape}: at least two seeds, finite and of one shape, are expected"
        )
    if (num := units.shape[0] * units.shape[1]) > MOST_UNITS:
        raise ValueError(
            f"{num} units in all: their {num}^2 cosines do not fit, at most {MOST_UNITS} units are expected"
        )
    directions, chance = _directions(units), _directions(null)
    cosines = np.einsum("sif,tjf->stij", chance, chance, optimize=True)
    others = ~np.eye(len(units), dtype=bool)
    threshold = float(np.quantile(cosines[others].max(axis=-1), LEVEL))
    flat = directions.reshape(-1, units.shape[-1])
    labels = _grouped(flat, threshold)
    sizes = np.bincount(labels)
    centres = np.stack([flat[labels == label].mean(axis=0) for label in range(len(sizes))])
    labels = labels.reshape(units.shape[:2])
    spread = np.array([np.mean(np.any(labels == label, axis=1)) for label in range(len(sizes))])
    null_labels = _grouped(chance.reshape(flat.shape), threshold).reshape(labels.shape)
    return Types(labels, _directions(centres), sizes, spread, threshold, _shared(labels), _shared(null_labels))


def surrogates(
    units: Float[np.ndarray, "seed unit feature"], *, rng: np.random.Generator
) -> Float[np.ndarray, "seed unit feature"]:
    """Units with the mean and the covariance of the given ones, all seeds together, and nothing else in common.

    Drawn as mean + sum_k e_k s_k v_k / sqrt(N - 1), e standard normal, s_k and v_k the singular values and right vectors
    of the N units less their mean: Gaussian, independent between units and seeds. Trained units share where their inputs
    vary, and are alike by that alone; what comes back beyond these is more than shared statistics.

    Args:
        units: of all seeds, as trained; not aligned, so that what alignment does to them is the null's part.
        rng: source of e.

    Raises:
        ValueError: there are fewer than two units.
    """
    flat = units.reshape(-1, units.shape[-1]).astype(np.float64)
    if len(flat) < 2:
        raise ValueError(f"{len(flat)} units have no covariance: at least two are expected")
    mean = flat.mean(axis=0)
    _, size, right = np.linalg.svd(flat - mean, full_matrices=False)
    drawn = rng.standard_normal((len(flat), len(size))) @ (size[:, None] * right) / np.sqrt(len(flat) - 1)
    return (mean + drawn).reshape(units.shape)


def _shared(labels: np.ndarray) -> np.ndarray:
    """Of each seed, the share of units whose label another seed has as well."""
    present = np.stack([np.any(labels == label, axis=1) for label in range(labels.max() + 1)])  # (label, seed)
    return np.mean(present.sum(axis=1)[labels] > 1, axis=1)


def _directions(units: np.ndarray) -> np.ndarray:
    """Units of length 1, float64; those of length 0 stay 0."""
    wide = units.astype(np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)


def _agreement(directions: np.ndarray) -> np.ndarray:
    """Cosine of each seed's unit with the sum over the others."""
    others = _directions(directions.sum(axis=0) - directions)
    return np.sum(directions * others, axis=-1).clip(-1, 1)  # rounding


def _grouped(directions: np.ndarray, threshold: float) -> np.ndarray:
    """Labels by complete linkage, the largest group first, the earliest member first among equals."""
    distances = 1 - np.clip(directions @ directions.T, -1, 1)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform((distances + distances.T) / 2, checks=False), method="complete")
    labels = fcluster(tree, 1 - threshold, criterion="distance")
    _, first, found, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), int)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[found]
