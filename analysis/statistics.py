"""Findings with their uncertainty. Seeds are the independent draws, so intervals come from resampling seeds."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import beta, rankdata
from scipy.stats import t as student

LEVEL = 0.95
BAND_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Statistic = Callable[[Int[np.ndarray, "resample seed"]], Float[np.ndarray, "resample"]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One finding.

    Attributes:
        value: the point estimate, from all seeds.
        ci: (low, high), percentile bootstrap over seeds at LEVEL; None where there is none: too few seeds, or a count.
        n: number of seeds behind it.
        unit: of the value and the interval; empty for pure numbers, `share` for shares in [0, 1].
    """

    value: float
    ci: tuple[float, float] | None
    n: int
    unit: str = ""


def bootstrap_seeds(
    statistic: Statistic,
    num_seeds: int,
    *,
    rng: np.random.Generator,
    pairs: bool = False,
    num_resamples: int = 1000,
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic: its (1-level)/2 and (1+level)/2 quantiles over resamples of the seeds.

    Seeds are resampled with replacement, never pairs: the N(N-1)/2 pairs of N seeds are not independent. A statistic of
    pairs receives the resampled seeds and must leave out pairs of a seed with itself (`pair_median` does); resamples
    that hold a single distinct seed have no pair and are drawn again. Resamples for which the statistic is NaN are left
    out.

    Args:
        statistic: (resample, seed) positions in 0 .. num_seeds-1 -> (resample,) values.
        num_seeds: number of seeds.
        rng: source of the resamples.
        pairs: whether the statistic is one of pairs of seeds.
        num_resamples: resamples to draw.
        level: coverage aimed at; too low for few seeds, as for every percentile interval.

    Returns:
        (low, high), or None below 2 seeds (3 for pairs), or where the statistic is NaN for every resample.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    if num_seeds < (3 if pairs else 2):
        return None
    resamples = rng.integers(num_seeds, size=(num_resamples, num_seeds))
    if pairs:
        while np.any(single := np.all(resamples == resamples[:, :1], axis=1)):
            resamples[single] = rng.integers(num_seeds, size=(int(single.sum()), num_seeds))
    values = statistic(resamples)
    if np.all(np.isnan(values)):
        return None
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def median(values: Float[np.ndarray, "seed"], *, rng: np.random.Generator, unit: str = "") -> Estimate:
    """Median over seeds with its interval.

    Args:
        values: one finite number a seed, at least one.
        rng: source of the resamples.
        unit: of the values.

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    if len(values) == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"median got {len(values)} values, {np.sum(~np.isfinite(values))} of them not finite")
    ci = bootstrap_seeds(lambda seeds: np.median(values[seeds], axis=1), len(values), rng=rng)
    return Estimate(float(np.median(values)), ci, len(values), unit)


def pair_median(values: Float[np.ndarray, "seed seed"]) -> Statistic:
    """The median over pairs of distinct seeds, as a statistic for `bootstrap_seeds`.

    A seed drawn c_i times gives the pair (i, j) the weight c_i c_j; pairs (i, i) have none. Equal to the median of the
    list in which every pair occurs that often.

    Args:
        values: symmetric; the diagonal is not read. NaN marks pairs that were not measured; they are left out.

    Returns:
        Function of (resample, seed) positions, each row with at least two distinct seeds; NaN for a row that holds no
        measured pair.
    """
    first, second = np.nonzero(np.triu(~np.isnan(values), 1))
    order = np.argsort(values[first, second], kind="stable")
    first, second = first[order], second[order]
    ranked = values[first, second]

    def one(seeds: np.ndarray) -> float:
        counts = np.bincount(seeds, minlength=len(values))
        upto = np.cumsum(counts[first] * counts[second])
        if len(upto) == 0 or upto[-1] == 0:
            return np.nan
        middle = np.searchsorted(upto, [(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
        return float(np.mean(ranked[middle]))

    return lambda resamples: np.array([one(seeds) for seeds in resamples])


def pair_values(matrix: Float[np.ndarray, "seed seed"]) -> Float[np.ndarray, "pair"]:
    """The entries above the diagonal, without NaN: one for each pair of distinct seeds that was measured."""
    values = matrix[np.triu_indices(len(matrix), 1)]
    return values[~np.isnan(values)]


def median_over_pairs(matrix: Float[np.ndarray, "seed seed"], *, rng: np.random.Generator, unit: str = "") -> Estimate:
    """Median over pairs of distinct seeds, with an interval from resampling seeds; n is the number of seeds.

    Args:
        matrix: symmetric; the diagonal is not read; NaN marks pairs that were not measured; at least one was.
        rng: source of the resamples.
        unit: of the entries.
    """
    ci = bootstrap_seeds(pair_median(matrix), len(matrix), rng=rng, pairs=True)
    return Estimate(float(np.median(pair_values(matrix))), ci, len(matrix), unit)


def ratio_over_pairs(
    above: Float[np.ndarray, "seed seed"],
    below: Float[np.ndarray, "seed seed"],
    *,
    rng: np.random.Generator,
    unit: str = "",
) -> Estimate:
    """Median of `above` / median of `below`, both over pairs of distinct seeds, with an interval from resampling seeds.

    Args:
        above, below: symmetric; diagonals are not read; the median of `below` is not 0.
        rng: source of the resamples.
        unit: of the ratio.
    """
    ratio = pair_ratio(pair_median(above), pair_median(below), len(above), rng)
    if ratio is None:
        raise ValueError(f"the median of `below` over the pairs of {len(below)} seeds is 0, or there are no pairs")
    return dataclasses.replace(ratio, unit=unit)


def pair_ratio(above: Statistic, below: Statistic, num: int, rng: np.random.Generator) -> Estimate | None:
    """above / below of all `num` seeds, with an interval over the resamples in which it exists; None without pairs."""
    everything = np.arange(num)[None]
    if num < 2 or (denominator := below(everything)[0]) == 0:
        return None
    value = float(above(everything)[0] / denominator)

    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have a denominator of 0
        exists = lambda seeds: np.nan_to_num(above(seeds) / below(seeds), nan=np.inf, posinf=np.inf)  # noqa: E731
        ci = bootstrap_seeds(exists, num, rng=rng, pairs=True)
    return Estimate(value, ci if ci and np.all(np.isfinite(ci)) else None, num)


def tuple_mean(values: Float[np.ndarray, "sample"], members: Int[np.ndarray, "sample member"]) -> Statistic:
    """The mean over samples that each involve several distinct seeds (pairs, triples), as a statistic for `bootstrap_seeds`.

    A seed drawn c_i times gives a sample of seeds i, j, .. the weight c_i c_j ..

    Args:
        values: of each sample.
        members: positions of its seeds.

    Returns:
        Function of (resample, seed) positions; NaN for a row that holds no whole sample.
    """

    def one(seeds: np.ndarray) -> float:
        counts = np.bincount(seeds, minlength=int(members.max()) + 1)
        weights = np.prod(counts[members], axis=1)
        return float(weights @ values / weights.sum()) if weights.any() else np.nan

    return lambda resamples: np.array([one(seeds) for seeds in resamples])


def jackknife_seeds(
    statistic: Callable[[Int[np.ndarray, "_"]], float], num_seeds: int, *, unit: str = "", level: float = LEVEL
) -> Estimate:
    """A statistic of a whole population with an interval from leaving out one seed at a time.

    For statistics that a seed drawn twice would bend, as the share of variance in a plane is. With v_i the statistic without
    seed i and m their mean, the standard error is sqrt((n-1)/n sum (v_i - m)^2) and the interval the value +- t of Student's
    distribution with n - 1 degrees of freedom times that. None below 3 seeds, or where a v_i is NaN.

    Args:
        statistic: positions of distinct seeds -> value.
        num_seeds: number of seeds.
        unit: of the value; the interval of a `share` is cut to [0, 1].
        level: coverage aimed at.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    every = np.arange(num_seeds)
    value = float(statistic(every))
    if num_seeds < 3:
        return Estimate(value, None, num_seeds, unit)
    without = np.array([statistic(np.delete(every, i)) for i in every])
    error = math.sqrt((num_seeds - 1) / num_seeds * float(np.sum(np.square(without - without.mean()))))
    half = float(student.ppf((1 + level) / 2, num_seeds - 1)) * error
    low, high = (value - half, value + half) if unit != "share" else (max(0.0, value - half), min(1.0, value + half))
    return Estimate(value, (low, high) if math.isfinite(half) else None, num_seeds, unit)


def interval_seeds() -> int:
    """Fewest seeds n whose whole range covers a median at LEVEL: 1 - 2^(1-n) >= LEVEL. Below, no interval is wide enough."""
    return 1 + math.ceil(math.log2(1 / (1 - LEVEL)))


def extreme_share(all_of_them: bool, num: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of a share of 0 or 1 among `num` independent draws, where a bootstrap interval would have no width.

    Exact for the binomial distribution (Clopper & Pearson 1934, 10.1093/biomet/26.4.404): with q = ((1-level)/2)^(1/num)
    from 0 to 1 - q for none, from q to 1 for all. None below two draws.
    """
    if num < 2:
        return None
    low = ((1 - level) / 2) ** (1 / num)
    return (low, 1.0) if all_of_them else (0.0, 1 - low)


def binomial_share(count: int, num: int, level: float = LEVEL) -> Estimate:
    """Share of `num` independent seeds that something is true of, with its exact interval.

    Clopper & Pearson 1934 (10.1093/biomet/26.4.404): from the (1-level)/2 quantile of Beta(count, num-count+1) to the
    (1+level)/2 quantile of Beta(count+1, num-count). None below two seeds.
    """
    if num < 2:
        return Estimate(count / num, None, num, "share")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, count, num - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, num - count)) if count < num else 1.0
    return Estimate(count / num, (low, high), num, "share")


def spearman(a: Float[np.ndarray, "*batch item"], b: Float[np.ndarray, "*batch item"]) -> Float[np.ndarray, "*batch"]:
    """Pearson's correlation of ranks along the last axis, ties sharing their mean; NaN where all of either are equal.

    Spearman 1904 (10.2307/1412159).
    """
    ranks = [rankdata(values, axis=-1) for values in (a, b)]
    u, v = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    size = np.sqrt((u**2).sum(axis=-1) * (v**2).sum(axis=-1))
    return np.divide((u * v).sum(axis=-1), size, out=np.full(size.shape, np.nan), where=size > 0)


def quantile_bands(
    values: Float[np.ndarray, "seed ..."], levels: tuple[float, ...] = BAND_LEVELS
) -> Float[np.ndarray, "level ..."]:
    """Quantiles over seeds (linear interpolation); NaN wherever a seed is NaN, or when there are no seeds."""
    if len(values) == 0:
        return np.full((len(levels), *values.shape[1:]), np.nan)
    return np.quantile(values, levels, axis=0)
