import itertools
import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kstest, rankdata, spearmanr

from analysis.similarity import common_order, correspondence


def distances(rng, num, dims=3):
    return squareform(pdist(rng.standard_normal((num, dims))))


def plain(a, b):
    upper = np.triu_indices(len(a), 1)
    return spearmanr(a[upper], b[upper])[0]


def test_the_correlation_is_spearmans(rng):
    a, b = distances(rng, 9), distances(rng, 9)
    found = correspondence(a, b, rng=rng)
    assert found is not None
    assert found.correlation.value == pytest.approx(plain(a, b))
    assert found.correlation.n == 9
    assert found.correlation.ci is not None
    assert -1 <= found.correlation.ci[0] <= found.correlation.ci[1] <= 1
    bent = correspondence(np.exp(a), b, rng=rng)
    assert bent is not None
    assert bent.correlation.value == pytest.approx(found.correlation.value)


def resampled(a, b, rng, num):
    """Percentiles of the correlation over resampled seeds, every pair of them written out."""
    values = []
    upper = np.triu_indices(len(a), 1)
    x, y = np.zeros(a.shape), np.zeros(a.shape)
    for ranks, matrix in ((x, a), (y, b)):
        ranks[upper] = rankdata(matrix[upper])
        ranks += ranks.T
    while len(values) < num:
        seeds = rng.integers(len(a), size=len(a))
        pairs = [(i, j) for i, j in itertools.combinations(seeds, 2) if i != j]
        if pairs:
            at = tuple(np.array(pairs).T)
            if np.ptp(x[at]) > 0 and np.ptp(y[at]) > 0:
                values.append(np.corrcoef(x[at], y[at])[0, 1])
    return np.quantile(values, [0.025, 0.975])


def test_the_interval_resamples_seeds(rng):
    points = rng.standard_normal((8, 3))
    a, b = (squareform(pdist(points + 0.5 * rng.standard_normal((8, 3)))) for _ in range(2))
    found = correspondence(a, b, rng=np.random.default_rng(5), num_permutations=1)
    assert found is not None
    assert found.correlation.ci is not None
    np.testing.assert_allclose(found.correlation.ci, resampled(a, b, np.random.default_rng(5), 1000), atol=0.08)


def test_three_seeds_have_no_interval(rng):
    for num, has in ((3, False), (4, True)):
        found = correspondence(distances(rng, num), distances(rng, num), rng=rng)
        assert found is not None
        assert (found.correlation.ci is not None) == has
        assert found.num_permutations == math.factorial(num)
        assert found.p >= 1 / found.num_permutations


def test_ties_are_shuffled_as_they_are_ranked(rng):
    a, b = np.round(distances(rng, 5)), np.round(distances(rng, 5))
    found = correspondence(a, b, rng=rng)
    assert found is not None
    every = [abs(plain(a[np.ix_(order, order)], b)) for order in itertools.permutations(range(5))]
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(plain(a, b)) - 1e-9))


def test_few_seeds_are_permuted_in_all_ways(rng):
    a, b = distances(rng, 5), distances(rng, 5)
    found = correspondence(a, b, rng=rng)
    assert found is not None
    every = [abs(plain(a[np.ix_(order, order)], b)) for order in itertools.permutations(range(5))]
    assert found.exact
    assert found.num_permutations == math.factorial(5)
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(plain(a, b)) - 1e-9))


def test_planted_correspondence_is_found_and_none_is_not(rng):
    points = rng.standard_normal((12, 3))
    a = squareform(pdist(points))
    b = squareform(pdist(points + 0.1 * rng.standard_normal((12, 3))))
    found = correspondence(a, b, rng=rng, num_permutations=199)
    assert found is not None
    assert found.p == 1 / 200
    assert found.num_permutations == 200
    assert found.correlation.value > 0.9
    against = correspondence(a, -b, rng=rng, num_permutations=199)
    assert against is not None
    assert against.p == 1 / 200
    p = [correspondence(distances(rng, 8), distances(rng, 8), rng=rng, num_permutations=39) for _ in range(150)]
    values = [found.p for found in p if found is not None]
    assert kstest(np.array(values) - rng.uniform(0, 1 / 40, len(values)), "uniform").pvalue > 1e-3


def test_missing_pairs_are_left_out_and_constants_have_no_correlation(rng):
    a, b = distances(rng, 8), distances(rng, 8)
    upper = np.triu_indices(8, 1)
    b[0, 3] = b[3, 0] = np.nan
    known = ~np.isnan(b[upper])
    found = correspondence(a, b, rng=rng, num_permutations=19)
    assert found is not None
    assert found.correlation.value == pytest.approx(spearmanr(a[upper][known], b[upper][known])[0])
    gone = b.copy()
    gone[2] = gone[:, 2] = np.nan
    rest = np.delete(np.arange(8), 2)
    without = correspondence(a, gone, rng=np.random.default_rng(1), num_permutations=19)
    assert without is not None
    assert without.correlation.n == 7
    assert without == correspondence(
        a[np.ix_(rest, rest)], b[np.ix_(rest, rest)], rng=np.random.default_rng(1), num_permutations=19
    )
    assert correspondence(np.ones((8, 8)), b, rng=rng) is None
    assert correspondence(a[:2, :2], b[:2, :2], rng=rng) is None
    assert correspondence(a, np.full((8, 8), np.nan), rng=rng) is None


def test_a_missing_pair_moves_with_its_seeds(rng):
    """All permutations of five seeds, one pair of the first matrix unknown."""
    a, b = distances(rng, 5), distances(rng, 5)
    a[1, 4] = a[4, 1] = np.nan
    found = correspondence(a, b, rng=rng)
    assert found is not None
    own = np.isnan(a)
    every = []
    for order in itertools.permutations(range(5)):
        moved = a[np.ix_(order, order)]
        at = np.triu(~(np.isnan(moved) | own), 1)
        every.append(abs(np.corrcoef(rankdata(moved[at]), rankdata(b[at]))[0, 1]))
    assert found.p == pytest.approx(np.mean(np.array(every) >= every[0] - 1e-9))


def test_matrices_that_are_not_distances_are_refused(rng):
    a = distances(rng, 5)
    with pytest.raises(ValueError, match="not symmetric"):
        correspondence(a, np.triu(a), rng=rng)


def test_the_common_order_brings_near_ones_together(rng):
    centres = np.array([0.0, 10, 20])[[2, 0, 1, 0, 2, 1, 0]][:, None]
    points = centres + 0.1 * rng.standard_normal((7, 1))
    order = common_order(squareform(pdist(points)))
    assert sorted(order.tolist()) == list(range(7))
    ranks = centres[order, 0]
    assert np.sum(np.diff(ranks) != 0) == 2
    assert common_order(np.zeros((1, 1))).tolist() == [0]
    assert common_order(np.zeros((2, 2))).tolist() == [0, 1]
    assert sorted(common_order(np.zeros((4, 4))).tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="missing or negative"):
        common_order(np.full((3, 3), np.nan))
