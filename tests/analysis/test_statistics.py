import itertools

import numpy as np
import pytest
from scipy.spatial.distance import squareform
from scipy.stats import binomtest, spearmanr, ttest_1samp

from analysis.statistics import (
    BAND_LEVELS,
    LEVEL,
    Estimate,
    bootstrap_seeds,
    extreme_share,
    jackknife_seeds,
    median,
    pair_median,
    pair_values,
    quantile_bands,
    ratio_over_pairs,
    spearman,
    tuple_mean,
)


def symmetric(rng, num):
    half = np.triu(rng.standard_normal((num, num)), 1)
    return half + half.T + np.diag(rng.standard_normal(num))


def listed_pair_median(matrix, seeds):
    """The median of every pair of draws written out, pairs of a seed with itself left out."""
    pairs = itertools.combinations(seeds, 2)
    return np.median([matrix[i, j] for i, j in pairs if i != j])


def coverage(truth, intervals):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("level", [0.5, 0.9, LEVEL])
def test_the_interval_of_a_mean_covers_it_as_often_as_it_should(rng, level):
    samples = rng.exponential(size=(400, 60))
    intervals = [
        bootstrap_seeds(lambda seeds, s=sample: s[seeds].mean(axis=1), 60, rng=rng, num_resamples=300, level=level)
        for sample in samples
    ]
    # a binomial's three standard deviations, and what a percentile interval of 60 skewed draws lacks
    assert level - 0.03 - 3 * np.sqrt(level * (1 - level) / 400) < coverage(1.0, intervals)
    assert coverage(1.0, intervals) < level + 3 * np.sqrt(level * (1 - level) / 400)


def test_pairs_are_covered_by_resampling_seeds_and_missed_by_resampling_pairs(rng):
    """Pairs a_i + a_j of independent a have a median of 0 and are far from independent."""
    num, first, second = 20, *np.triu_indices(20, 1)
    of_seeds, of_pairs = [], []
    for _ in range(150):
        effects = rng.standard_normal(num)
        matrix = np.add.outer(effects, effects)
        of_seeds.append(bootstrap_seeds(pair_median(matrix), num, rng=rng, pairs=True, num_resamples=200))
        drawn = rng.integers(len(first), size=(200, len(first)))
        of_pairs.append(np.quantile(np.median(matrix[first, second][drawn], axis=1), [0.025, 0.975]))
    assert coverage(0.0, of_seeds) > 0.85
    assert coverage(0.0, of_pairs) < 0.65


def test_the_interval_is_the_two_quantiles_of_the_resampled_statistic(rng):
    ranks = lambda seeds: np.arange(len(seeds), dtype=float)[::-1]  # noqa: E731
    assert bootstrap_seeds(ranks, 4, rng=rng) == pytest.approx((0.025 * 999, 0.975 * 999), rel=1e-12)
    assert bootstrap_seeds(ranks, 4, rng=rng, num_resamples=101, level=0.5) == pytest.approx((25, 75), rel=1e-12)


def resamples_of(num_seeds, num_resamples, pairs, rng):
    seen = []

    def record(seeds):
        seen.append(seeds)
        return np.zeros(len(seeds))

    bootstrap_seeds(record, num_seeds, rng=rng, pairs=pairs, num_resamples=num_resamples)
    (seeds,) = seen
    assert seeds.shape == (num_resamples, num_seeds)
    return seeds


@pytest.mark.parametrize(("pairs", "outcomes"), [(False, 27), (True, 24)])
def test_resamples_are_uniform_and_always_hold_a_pair_where_one_is_needed(rng, pairs, outcomes):
    seeds = resamples_of(3, 1000 * outcomes, pairs, rng)
    rows, counts = np.unique(seeds, axis=0, return_counts=True)
    assert len(rows) == outcomes
    assert np.all((rows >= 0) & (rows < 3))
    assert np.any(np.ptp(rows, axis=1) == 0) == (not pairs)
    np.testing.assert_allclose(counts, 1000, atol=5 * np.sqrt(1000))


def test_too_few_seeds_have_no_interval(rng):
    never = lambda seeds: pytest.fail("there is nothing to resample")  # noqa: E731
    assert bootstrap_seeds(never, 0, rng=rng) is None
    assert bootstrap_seeds(never, 1, rng=rng) is None
    assert bootstrap_seeds(never, 2, rng=rng, pairs=True) is None
    values = rng.standard_normal(3)
    assert bootstrap_seeds(lambda seeds: values[seeds].mean(axis=1), 2, rng=rng) is not None
    assert bootstrap_seeds(pair_median(symmetric(rng, 3)), 3, rng=rng, pairs=True) is not None


@pytest.mark.parametrize("pairs", [False, True])
def test_one_generator_gives_one_interval(rng, pairs):
    matrix = symmetric(rng, 20)
    statistic = pair_median(matrix) if pairs else lambda seeds: matrix[0][seeds].mean(axis=1)
    first, again, other = (
        bootstrap_seeds(statistic, 20, rng=np.random.default_rng(key), pairs=pairs) for key in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("num", [2, 3, 4, 7])
def test_pair_median_equals_the_median_of_the_pairs_written_out(rng, num):
    resamples = np.concatenate([[np.arange(num)], resamples_of(num, 200, num > 2, rng)])
    resamples = resamples[np.ptp(resamples, axis=1) > 0]
    for matrix in (symmetric(rng, num), np.round(symmetric(rng, num))):  # the second has ties
        got = pair_median(matrix)(resamples)
        np.testing.assert_allclose(got, [listed_pair_median(matrix, seeds) for seeds in resamples], rtol=1e-15)


def test_pair_median_weighs_a_pair_by_the_product_of_its_seeds_counts():
    matrix = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 4.0], [2.0, 4.0, 0.0]])
    # (0, 1) four times, (0, 2) and (1, 2) twice: the list 1 1 1 1 2 2 4 4
    assert pair_median(matrix)(np.array([[0, 0, 1, 1, 2]])).tolist() == [1.5]
    # (0, 1) twice, (0, 2) six times, (1, 2) three times
    assert pair_median(matrix)(np.array([[0, 0, 1, 2, 2, 2]])).tolist() == [2.0]


def test_pair_median_reads_only_above_the_diagonal(rng):
    matrix = symmetric(rng, 5)
    spoiled = np.where(np.triu(np.ones((5, 5), bool), 1), matrix, np.nan)
    resamples = resamples_of(5, 50, True, rng)
    np.testing.assert_array_equal(pair_median(spoiled)(resamples), pair_median(matrix)(resamples))


def test_pair_median_leaves_out_pairs_that_were_not_measured(rng):
    matrix = symmetric(rng, 6)
    matrix[[0, 1, 0, 4], [1, 0, 4, 0]] = np.nan
    resamples = resamples_of(6, 200, True, rng)
    expected = []
    for seeds in resamples:
        pairs = [matrix[i, j] for i, j in itertools.combinations(seeds, 2) if i != j]
        measured = [value for value in pairs if not np.isnan(value)]
        expected.append(np.median(measured) if measured else np.nan)
    np.testing.assert_allclose(pair_median(matrix)(resamples), expected, rtol=1e-15)


def test_pair_median_is_missing_where_a_resample_holds_no_measured_pair():
    matrix = np.full((4, 4), np.nan)
    matrix[[0, 2], [2, 0]] = 3.0
    got = pair_median(matrix)(np.array([[0, 1, 2, 3], [0, 1, 1, 3], [2, 2, 2, 3], [0, 0, 2, 2]]))
    np.testing.assert_array_equal(got, [3, np.nan, np.nan, 3])
    nothing = pair_median(np.full((4, 4), np.nan))
    np.testing.assert_array_equal(nothing(np.array([[0, 1, 2, 3]])), [np.nan])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tuple_mean_equals_the_mean_of_the_samples_written_out(rng, size):
    """A sample occurs once for each way to find its seeds among the draws."""
    members = np.array(list(itertools.combinations(range(6), size)))
    members = rng.permuted(members, axis=1)[rng.permutation(len(members))[:10]]
    values, resamples = rng.standard_normal(len(members)), rng.integers(6, size=(200, 6))
    expected = []
    for seeds in resamples:
        written = [
            value
            for value, sample in zip(values, members, strict=True)
            for _ in itertools.product(*(np.flatnonzero(seeds == seed) for seed in sample))
        ]
        expected.append(np.mean(written) if written else np.nan)
    np.testing.assert_allclose(tuple_mean(values, members)(resamples), expected, rtol=1e-12, atol=1e-14)
    if size > 1:
        assert np.isnan(tuple_mean(values, members)(np.zeros((1, 6), int)))


def test_tuple_mean_weighs_a_sample_by_the_product_of_its_seeds_counts():
    pairs, triple = np.array([[0, 1], [0, 2], [1, 2]]), np.array([[0, 1, 2], [1, 2, 3]])
    # four times 1, twice 2, twice 4
    assert tuple_mean(np.array([1.0, 2.0, 4.0]), pairs)(np.array([[0, 0, 1, 1, 2]])).tolist() == [2.0]
    # twice 1, four times 7
    assert tuple_mean(np.array([1.0, 7.0]), triple)(np.array([[0, 1, 2, 2, 3, 3]])).tolist() == [5.0]


def test_the_interval_leaves_out_resamples_without_a_value(rng):
    def ranks(seeds):
        return np.where(np.arange(len(seeds)) % 2, np.nan, np.arange(len(seeds), dtype=float))

    assert bootstrap_seeds(ranks, 4, rng=rng, num_resamples=201) == pytest.approx((0.025 * 200, 0.975 * 200), rel=1e-12)
    assert bootstrap_seeds(lambda seeds: np.full(len(seeds), np.nan), 4, rng=rng) is None


def test_the_interval_of_a_share_of_samples_covers_it(rng):
    """Pairs and triples whose seeds have a positive sum; they are far from independent."""
    for size in (2, 3):
        members = np.array(list(itertools.combinations(range(15), size)))
        intervals = []
        for _ in range(80):
            violated = rng.standard_normal(15)[members].sum(axis=1) > 0
            statistic = tuple_mean(violated.astype(float), members)
            intervals.append(bootstrap_seeds(statistic, 15, rng=rng, pairs=True, num_resamples=100))
        assert coverage(0.5, intervals) > 0.85


def test_median_is_that_of_all_values_with_the_interval_of_resampled_seeds(rng):
    values = rng.standard_normal(9)
    got = median(values, rng=np.random.default_rng(1), unit="nats")
    resampled = lambda seeds: np.array([sorted(values[row])[4] for row in seeds])  # noqa: E731
    assert got == Estimate(sorted(values)[4], bootstrap_seeds(resampled, 9, rng=np.random.default_rng(1)), 9, "nats")
    assert got.ci is not None
    assert values.min() <= got.ci[0] < got.value < got.ci[1] <= values.max()


def test_median_of_one_value_has_no_interval_and_of_equal_ones_no_width(rng):
    assert median(np.array([2.5]), rng=rng) == Estimate(2.5, None, 1)
    assert median(np.full(6, 2.5), rng=rng) == Estimate(2.5, (2.5, 2.5), 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "got 0 values, 0 of them"),
        ([1, np.nan, 2], "got 3 values, 1 of them not finite"),
        ([np.inf, -np.inf], "got 2 values, 2"),
    ],
)
def test_median_refuses_what_has_no_median(rng, values, message):
    with pytest.raises(ValueError, match=message):
        median(np.array(values, float), rng=rng)


def test_bands_are_quantiles_over_seeds(rng):
    line = np.arange(101.0)[rng.permutation(101)]
    np.testing.assert_allclose(quantile_bands(line), [5, 25, 50, 75, 95], rtol=1e-12)
    values = rng.standard_normal((6, 4, 3))
    bands = quantile_bands(values, (0.0, 0.3, 1.0))
    assert bands.shape == (3, 4, 3)
    np.testing.assert_array_equal(bands[0], values.min(axis=0))
    np.testing.assert_array_equal(bands[2], values.max(axis=0))
    ordered = np.sort(values, axis=0)  # position 0.3 * 5 lies between the second and the third of six
    np.testing.assert_allclose(bands[1], (ordered[1] + ordered[2]) / 2, rtol=1e-12)


@pytest.mark.parametrize("num", [2, 5, 40])
def test_the_interval_of_none_and_of_all_is_that_of_clopper_and_pearson(num):
    for successes in (0, num):
        expected = binomtest(successes, num).proportion_ci(0.95, method="exact")
        found = extreme_share(successes > 0, num)
        assert found is not None
        np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-12)
    assert extreme_share(True, 1) is None


def test_pair_values_are_the_pairs_in_order():
    matrix = np.arange(16.0).reshape(4, 4)
    assert pair_values(matrix).tolist() == [1, 2, 3, 6, 7, 11]
    assert pair_values(matrix[:1, :1]).tolist() == []


def test_a_ratio_over_pairs_is_one_of_medians_and_has_an_interval_over_seeds(rng):
    above, below = (squareform(1 + rng.random(28)) for _ in range(2))
    ratio = ratio_over_pairs(above, below, rng=rng, unit="share")
    assert ratio.value == np.median(pair_values(above)) / np.median(pair_values(below))
    assert ratio.ci is not None
    assert ratio.ci[0] <= ratio.value <= ratio.ci[1]
    assert (ratio.n, ratio.unit) == (8, "share")
    assert ratio_over_pairs(3 * below, below, rng=rng).ci == pytest.approx((3, 3))
    with pytest.raises(ValueError, match="the median of `below`"):
        ratio_over_pairs(above, 0 * below, rng=rng)


def test_the_jackknife_of_a_mean_is_students_interval(rng):
    values = rng.standard_normal(9)
    got = jackknife_seeds(lambda seeds: float(values[seeds].mean()), 9, unit="nats")
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (got.n, got.unit, got.value) == (9, "nats", values.mean())
    assert got.ci is not None
    np.testing.assert_allclose(got.ci, (expected.low, expected.high), rtol=1e-12)
    assert jackknife_seeds(lambda seeds: float(len(seeds)), 2).ci is None
    assert jackknife_seeds(lambda seeds: np.nan if len(seeds) < 4 else 1.0, 4).ci is None
    share = jackknife_seeds(lambda seeds: float(seeds.mean() / 4), 3, unit="share")
    assert share.ci is not None
    assert share.ci[0] == 0 < share.ci[1] < 1


def test_bands_are_missing_exactly_where_a_seed_is(rng):
    values = rng.standard_normal((5, 4))
    values[2, 1] = np.nan
    bands = quantile_bands(values)
    assert np.isnan(bands[:, 1]).all()
    np.testing.assert_array_equal(bands[:, [0, 2, 3]], np.quantile(values[:, [0, 2, 3]], BAND_LEVELS, axis=0))


def test_bands_of_no_seeds_are_missing():
    bands = quantile_bands(np.zeros((0, 4, 2)))
    assert bands.shape == (len(BAND_LEVELS), 4, 2)
    assert np.isnan(bands).all()


def test_rank_correlations_are_scipys(rng):
    a, b = rng.integers(5, size=(3, 30)).astype(float), rng.standard_normal((3, 30))
    expected = np.array([spearmanr(u, v)[0] for u, v in zip(a, b, strict=True)], float)
    np.testing.assert_allclose(spearman(a, b), expected, rtol=1e-12)
    np.testing.assert_array_equal(spearman(np.ones((1, 4)), b[:1, :4]), [np.nan])
