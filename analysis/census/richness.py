"""How many minima were found, how many were not, and how large the basins of those found are.

Restarts are independent draws from one distribution of starting points, and each ends in one minimum: what ecologists call
a sample of individuals of several species. N restarts found S minima, f_k of them exactly k times; what was met once or
twice tells about what was not met at all.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from scipy.stats import beta, norm

from analysis.statistics import LEVEL, Estimate

Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclasses.dataclass(frozen=True)
class Discovery:
    """How many distinct minima so many restarts find.

    Attributes:
        restarts: n = 1, 2, .., beyond the N that there were.
        found: expected number of distinct minima among n restarts.
        low, high: its interval at LEVEL, for another sample of n restarts; NaN where one restart is extrapolated.
        extrapolated: whether n > N: there, an estimate of unseen minima is part of the number.
    """

    restarts: Int[np.ndarray, "size"]
    found: Float[np.ndarray, "size"]
    low: Float[np.ndarray, "size"]
    high: Float[np.ndarray, "size"]
    extrapolated: Bool[np.ndarray, "size"]


@dataclasses.dataclass(frozen=True)
class BasinShares:
    """How likely a restart is to end in each of the minima that were found, the most frequent one first.

    Attributes:
        label: of the minimum; ties are ordered by it.
        count: restarts that ended there.
        share: count / N.
        low, high: the exact binomial interval of the share at LEVEL.
    """

    label: Int[np.ndarray, "minimum"]
    count: Int[np.ndarray, "minimum"]
    share: Float[np.ndarray, "minimum"]
    low: Float[np.ndarray, "minimum"]
    high: Float[np.ndarray, "minimum"]


def discovery_curve(labels: Int[np.ndarray, "restart"], *, factor: float = 2.0) -> Discovery:
    """Expected number of distinct minima among n restarts: exact up to N, extrapolated beyond.

    With N_i restarts in minimum i, n <= N of them drawn without replacement hold S(n) = S - sum_i C(N-N_i, n) / C(N, n) of
    the minima, whatever the order in which they came. Beyond, with f_0 unseen minima as in `chao1`,
    S(N+m) = S + f_0 (1 - (1 - f_1 / (N f_0 + f_1))^m), which tends to Chao's estimate. The band is S(n) +- z sd, cut to
    [1, n]; its variance counts the chance of the sample itself as well: sum_k f_k d_k^2 - (sum_k f_k d_k)^2 / (S + f_0),
    with d_k the derivative of S(n) by f_k. It has no width at N where f_0 = 0.

    Args:
        labels: which distinct minimum each restart ended in, any integers.
        factor: extrapolate to factor x N restarts; more than two or three times N is not reliable.

    Raises:
        ValueError: labels are empty, not one-dimensional or not integers, or the factor is below 1 or not finite.

    Source: Colwell et al. 2012, 10.1093/jpe/rtr044, equations 4, 5, 9 and 10; Chao et al. 2014, 10.1890/13-0133.1.
    """
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor = {factor}: a finite number of at least 1 is expected, 1 extrapolates nothing")
    counts = _counts(labels)[1]
    num, seen, unseen = int(counts.sum()), len(counts), _unseen(counts)
    inside = np.arange(1, num + 1)
    factorials = gammaln(np.arange(num + 1) + 1.0)
    found, squares = np.zeros((2, num))
    for count, times in zip(*np.unique(counts, return_counts=True), strict=True):
        rest = num - count  # restarts that ended elsewhere: more than these cannot all miss the minimum
        missed = (
            factorials[rest] - factorials[np.maximum(rest - inside, 0)] - factorials[num] + factorials[num - inside]
        )
        met = np.where(inside <= rest, -np.expm1(missed), 1.0)
        found, squares = found + times * met, squares + times * met**2

    more = np.arange(1, int(factor * num) - num + 1)
    f0, once = unseen.number, unseen.once
    known = max(num * f0 + once, 1.0)  # 0 only where nothing was met once, and everything below is 0
    kept = num * f0 / known
    gain = f0 * (1 - kept**more)
    slopes = [
        slope * (1 - kept**more) - f0 * more * kept ** (more - 1) * num * (slope * once - f0 * own) / known**2
        for slope, own in zip(unseen.slopes, (1.0, 0.0), strict=True)
    ]
    restarts = np.concatenate([inside, num + more])
    variance = np.concatenate([squares - found**2 / (seen + f0), _variance(seen, unseen, slopes)])
    half = Z * np.sqrt(np.maximum(variance, 0))
    if num == 1:
        half[1:] = np.nan
    found = np.concatenate([found, seen + gain])
    found, low, high = (np.clip(x, 1, restarts) for x in (found, found - half, found + half))
    return Discovery(restarts, found, low, high, restarts > num)


def chao1(labels: Int[np.ndarray, "restart"]) -> Estimate:
    """Chao's lower bound for the number of minima, those included that no restart found.

    S + f_0 with f_0 = (N-1)/N f_1^2 / (2 f_2), and (N-1)/N f_1 (f_1 - 1) / 2 where nothing was met twice. It estimates a
    bound that is attained where the unseen minima have equal basins; any number of tiny basins escapes it, see `coverage`.
    The interval is log-normal in f_0 and never below S: S + f_0 / K to S + f_0 K, K = exp(z sqrt(log(1 + var / f_0^2))).
    Where f_0 = 0 it is about S / (1 - P), with P = sum_k f_k e^-k / S the expected share of minima that are missed. The
    lower end is the whole number below, or else it would exclude that all are found as soon as f_0 > 0, however small.

    Args:
        labels: which distinct minimum each restart ended in, any integers.

    Returns:
        The estimate; n is the number of restarts. No interval where every restart found another minimum: nothing then
        bounds their number from above.

    Raises:
        ValueError: labels are empty, not one-dimensional or not integers.

    Source: Chao 1984, Scandinavian Journal of Statistics 11, 265-270; intervals: Chao 1987, 10.2307/2531532, and Hsieh, Ma &
    Chao 2016, 10.1111/2041-210X.12613, whose software gives the same numbers, the lower end not rounded.
    """
    counts = _counts(labels)[1]
    num, seen, unseen = int(counts.sum()), len(counts), _unseen(counts)
    f0 = unseen.number
    if unseen.once == num:
        ci = None
    elif f0 > 0:
        spread = math.exp(Z * math.sqrt(math.log1p(_variance(seen, unseen, unseen.slopes) / f0**2)))
        ci = float(math.floor(seen + f0 / spread)), seen + f0 * spread
    else:
        missed = np.exp(-counts.astype(float))
        variance = float(np.sum(missed - missed**2) - np.sum(counts * missed) ** 2 / num)
        middle, half = seen / (1 - missed.mean()), Z * math.sqrt(max(variance, 0)) / (1 - missed.mean())
        ci = float(max(seen, math.floor(middle - half))), float(middle + half)
    return Estimate(seen + f0, ci, num)


def coverage(labels: Int[np.ndarray, "restart"]) -> Estimate:
    """Share of restarts to come that end in minima already found: 1 - f_1 / N.

    Good's form, and not a later one, because it is unbiased for what N - 1 restarts cover, whatever the minima are, and its
    variance is known: (f_1 (1 - f_1/N) + 2 f_2) / N^2. Where few restarts make a normal interval too narrow, or give it no
    width at all, f_1 and f_2 are not taken at their word: the ends are 1 - f_1/N -+ sqrt(b^2 + 2 z^2 (f_2 + 1) / N^2); b is
    the distance to the end of the exact binomial interval of f_1 among N, in place of z sqrt(f_1 (1 - f_1/N)) / N.

    Args:
        labels: which distinct minimum each restart ended in, any integers.

    Returns:
        The estimate, of unit `share`; n is the number of restarts. No interval for one restart.

    Raises:
        ValueError: labels are empty, not one-dimensional or not integers.

    Source: Good 1953, 10.1093/biomet/40.3-4.237; Esty 1983, 10.1214/aos/1176346256; Clopper & Pearson 1934,
    10.1093/biomet/26.4.404.
    """
    counts = _counts(labels)[1]
    num, once, twice = int(counts.sum()), int(np.sum(counts == 1)), int(np.sum(counts == 2))
    value = 1 - once / num
    if num < 2:
        return Estimate(value, None, num, "share")
    repeated, ends = Z * math.sqrt(2 * (twice + 1)) / num, _binomial(np.array([num - once]), num)
    low, high = (math.hypot(float(end[0]) - value, repeated) for end in ends)
    return Estimate(value, (max(0.0, value - low), min(1.0, value + high)), num, "share")


def basin_shares(labels: Int[np.ndarray, "restart"]) -> BasinShares:
    """How large the basins of the minima found are, under the distribution of starting points: N_i / N of each.

    The intervals are exact for one minimum chosen beforehand. Minima are listed because they were found, so that those met
    once or twice tend to have smaller basins than their shares say.

    Args:
        labels: which distinct minimum each restart ended in, any integers.

    Raises:
        ValueError: labels are empty, not one-dimensional or not integers.

    Source: Clopper & Pearson 1934, 10.1093/biomet/26.4.404.
    """
    names, counts = _counts(labels)
    order = np.argsort(-counts, kind="stable")
    names, counts = names[order], counts[order]
    low, high = _binomial(counts, len(labels))
    return BasinShares(names, counts, counts / len(labels), low, high)


class _Unseen(NamedTuple):
    """f_0, its derivatives by f_1 and f_2, and these two."""

    number: float
    slopes: tuple[float, float]
    once: int
    twice: int


def _unseen(counts: np.ndarray) -> _Unseen:
    num, once, twice = int(counts.sum()), int(np.sum(counts == 1)), int(np.sum(counts == 2))
    exact = (num - 1) / num
    if twice:
        number, slopes = once**2 / (2 * twice), (once / twice, -(once**2) / (2 * twice**2))
    else:
        number, slopes = once * (once - 1) / 2, (max(2 * once - 1, 0) / 2, 0.0)  # that by f_2 is never used: f_2 = 0
    return _Unseen(exact * number, (exact * slopes[0], exact * slopes[1]), once, twice)


def _variance(seen: int, unseen: _Unseen, slopes: Sequence[Any]) -> Any:
    """sum_k f_k d_k^2 - (sum_k f_k d_k)^2 / (S + f_0): d_k is 1, and what `slopes` add for k = 1 and 2."""
    pairs = list(zip((unseen.once, unseen.twice), slopes, strict=True))
    first, second = (seen + sum(f * ((1 + slope) ** power - 1) for f, slope in pairs) for power in (1, 2))
    return second - first**2 / (seen + unseen.number)


def _binomial(counts: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's ends for counts of num."""
    low = np.where(counts > 0, beta.ppf((1 - LEVEL) / 2, np.maximum(counts, 1), num - counts + 1), 0.0)
    high = np.where(counts < num, beta.ppf((1 + LEVEL) / 2, counts + 1, np.maximum(num - counts, 1)), 1.0)
    return low, high


def _counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct labels, ascending, and how often each occurs."""
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are of shape {labels.shape} and dtype {labels.dtype}: one integer for each restart, of at least one, "
            "is expected"
        )
    return np.unique(labels, return_counts=True)
