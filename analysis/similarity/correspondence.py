"""Does one distance between restarts say anything about another? And one order of restarts for all matrices of a report."""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from analysis.statistics import Estimate, bootstrap_seeds

NUM_PERMUTATIONS = 999
LEAST_SEEDS = 4  # three seeds have three pairs, and every resample with a correlation has all of them
EXACT = 5040  # no more permutations of the seeds than this (7!) and all are tried


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """Rank correlation of two distances over pairs of seeds.

    Attributes:
        correlation: Spearman's, with an interval from resampling seeds, None below LEAST_SEEDS; n counts the seeds of pairs.
        p: how often it is as strong, in either direction, when the seeds of one matrix are shuffled.
        num_permutations: shuffles, the identity included; 1 / this is the smallest p: 1/24 for four seeds, 1/120 for five.
        exact: whether these were all there are.
    """

    correlation: Estimate
    p: float
    num_permutations: int
    exact: bool


def correspondence(
    one: Float[np.ndarray, "seed seed"],
    other: Float[np.ndarray, "seed seed"],
    *,
    rng: np.random.Generator,
    num_permutations: int = NUM_PERMUTATIONS,
) -> Correspondence | None:
    """Spearman's rank correlation of two matrices of distances, tested by permuting seeds (Mantel's test).

    Pairs share seeds, so neither do they count as independent in the interval, which resamples seeds (a seed drawn c_i times
    gives the pair (i, j) the weight c_i c_j in a correlation of the ranks among all pairs), nor in the test, which moves
    rows and columns together.

    Args:
        one, other: symmetric; diagonals are not read; NaN in either leaves the pair out, and a seed without pairs.
        rng: source of resamples and permutations.
        num_permutations: drawn, unless all permutations of the seeds are no more than EXACT.

    Returns:
        None where there is no correlation: fewer than three pairs, or a distance that is the same for all.

    Raises:
        ValueError: a matrix is not symmetric.

    Source: Mantel 1967, Cancer Research 27; Legendre & Legendre 2012, Numerical Ecology, section 10.5.
    """
    if not all(np.isclose(matrix, matrix.T, equal_nan=True).all() for matrix in (one, other)):
        raise ValueError("a matrix is not symmetric: one distance for each pair of seeds is expected")
    paired = np.triu(~(np.isnan(one) | np.isnan(other)), 1)
    kept = np.flatnonzero((paired | paired.T).any(axis=0))
    one, other = (matrix[np.ix_(kept, kept)] for matrix in (one, other))
    first, second = np.nonzero(paired[np.ix_(kept, kept)])
    num = len(kept)
    if len(first) < 3:
        return None
    x, y = (rankdata(matrix[first, second]) for matrix in (one, other))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    value = float(_correlation(x, y, np.ones(len(x))))

    def resampled(resamples: np.ndarray) -> np.ndarray:
        counts = [np.bincount(seeds, minlength=num) for seeds in resamples]
        return np.array([_correlation(x, y, (c[first] * c[second]).astype(float)) for c in counts])

    ci = bootstrap_seeds(resampled, num, rng=rng, pairs=True) if num >= LEAST_SEEDS else None
    exact = math.factorial(num) <= EXACT if num <= 20 else False
    orders = itertools.permutations(range(num)) if exact else (rng.permutation(num) for _ in range(num_permutations))
    if len(first) == num * (num - 1) // 2:  # no pair is missing: ranks move with their seeds
        ranks = np.zeros((num, num))
        ranks[first, second] = ranks[second, first] = x - x.mean()
        weights = (y - y.mean()) / (np.std(x) * np.std(y) * len(x))
        shuffled = lambda order: ranks[order[first], order[second]] @ weights  # noqa: E731
    else:
        shuffled = lambda order: _shuffled(one, other, order, first, second)  # noqa: E731
    found = np.array([abs(shuffled(np.asarray(order))) for order in orders])
    extreme = int(np.sum(found >= abs(value) - 1e-12))
    p = extreme / len(found) if exact else (1 + extreme) / (1 + len(found))
    return Correspondence(Estimate(value, ci, num), float(p), len(found) + (not exact), exact)


def common_order(distances: Float[np.ndarray, "seed seed"]) -> Int[np.ndarray, "seed"]:
    """Positions of the seeds in the order of the leaves of one tree: average linkage, neighbours as close as it allows.

    Raises:
        ValueError: a distance is missing or negative.

    Source: Bar-Joseph, Gifford & Jaakkola 2001, 10.1093/bioinformatics/17.suppl_1.S22.
    """
    upper = distances[np.triu_indices(len(distances), 1)]
    if not np.all(np.isfinite(upper)) or np.any(upper < 0):
        raise ValueError("distances are missing or negative: a tree takes one number, at least 0, for each pair")
    if len(distances) < 3:
        return np.arange(len(distances))
    square = np.triu(distances, 1)
    tree = linkage(squareform(square + square.T, checks=False), "average", optimal_ordering=True)
    return leaves_list(tree).astype(np.int64)


def _shuffled(one: np.ndarray, other: np.ndarray, order: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Correlation after the seeds of `one` are shuffled, over the pairs that are known in both places."""
    moved, fixed = one[order[first], order[second]], other[first, second]
    known = ~np.isnan(moved)
    x, y = rankdata(moved[known]), rankdata(fixed[known])
    return 0.0 if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0 else float(_correlation(x, y, np.ones(len(x))))


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's, weighted; NaN where one of them does not vary."""
    total = weights.sum()
    if total == 0:
        return math.nan
    a, b = x - weights @ x / total, y - weights @ y / total
    spread = math.sqrt(float(weights @ a**2) * float(weights @ b**2))
    return float(weights @ (a * b)) / spread if spread > 0 else math.nan
