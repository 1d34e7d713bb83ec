import itertools

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy.special import comb
from scipy.stats import binomtest

from analysis.census.richness import basin_shares, chao1, coverage, discovery_curve
from analysis.statistics import Estimate

UNIFORM = np.full(20, 1 / 20)
GEOMETRIC = 0.8 ** np.arange(200) / np.sum(0.8 ** np.arange(200))
# Species counts of published samples: spiders of a girdled and of a logged forest (the example of the software iNEXT), and
# beetles of an old-growth forest (Colwell et al. 2012, table 1; S = 112, N = 237).
SPIDERS = [46, 22, 17, 15, 15, 9, 8, 6, 6, 4, *[2] * 4, *[1] * 12]
LOGGED = [88, 22, 16, 15, 13, 10, 8, 8, 7, 7, 7, 5, *[4] * 3, *[3] * 4, *[2] * 4, *[1] * 14]
BEETLES = [42, 14, 8, 7, 7, 6, *[5] * 5, *[4] * 3, *[3] * 4, *[2] * 10, *[1] * 84]
SAMPLES = [[1], [5], [1, 1], [1] * 6, [2, 2], [3, 1], [98, 2], [99, 1], [4, 3, 2, 2, 1, 1, 1], SPIDERS, BEETLES]


def restarts_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


def inside(value, ci):
    assert ci is not None
    return ci[0] - 1e-12 <= value <= ci[1] + 1e-12


@pytest.mark.parametrize("counts", [[1], [4], [1, 1, 1], [3, 2, 1], [5, 1, 1], [2, 2, 2, 1]])
def test_discovery_is_the_mean_over_all_subsets(counts):
    labels = restarts_of(counts)
    curve = discovery_curve(labels, factor=1)
    for n in curve.restarts:
        expected = np.mean([len(set(subset)) for subset in itertools.combinations(labels.tolist(), int(n))])
        assert curve.found[n - 1] == pytest.approx(expected, rel=1e-13)
    assert len(curve.restarts) == len(labels)
    assert not curve.extrapolated.any()


@pytest.mark.parametrize("counts", SAMPLES, ids=str)
def test_discovery_passes_through_one_and_all_and_stays_between_its_limits(counts):
    curve, num = discovery_curve(restarts_of(counts), factor=3), sum(counts)
    assert curve.restarts.tolist() == list(range(1, 3 * num + 1))
    assert curve.extrapolated.tolist() == [False] * num + [True] * 2 * num
    assert curve.found[[0, num - 1]] == pytest.approx([1, len(counts)], rel=1e-12)
    steps = np.diff(curve.found)
    assert np.all(steps >= -1e-12)
    assert np.all(np.diff(steps) <= 1e-9)  # concave: another restart never finds more than the last one
    known = ~np.isnan(curve.low)
    assert known.all() == (num > 1)
    assert np.all((curve.low >= 1) & (curve.low <= curve.found) & (curve.found <= curve.high), where=known)
    assert np.all(curve.high <= curve.restarts, where=known)


@pytest.mark.parametrize("counts", [[1] * 6, [4, 3, 2, 2, 1, 1, 1], [3, 1, 1], SPIDERS], ids=str)
def test_extrapolation_tends_to_the_estimate_of_all_minima(counts):
    labels = restarts_of(counts)
    curve = discovery_curve(labels, factor=2000)
    assert curve.found[-1] == pytest.approx(chao1(labels).value, rel=1e-9)
    assert np.all(curve.low[len(labels) :] < curve.found[len(labels) :])


@pytest.mark.parametrize("counts", [[4, 3, 2, 2, 1, 1, 1], [3, 1, 1], SPIDERS], ids=str)
def test_the_band_has_the_variance_of_its_derivatives(counts):
    """By finite differences of S(N+m) in f_1 and f_2, N fixed; up to N by the formula written out."""
    num, frequency = sum(counts), np.bincount(counts, minlength=3).astype(float)

    def extrapolated(f, more):
        doubletons = f[1] ** 2 / (2 * f[2]) if frequency[2] else f[1] * (f[1] - 1) / 2
        unseen = (num - 1) / num * doubletons
        return f.sum() + unseen * (1 - (1 - f[1] / (num * unseen + f[1])) ** more)

    curve = discovery_curve(restarts_of(counts))
    total = chao1(restarts_of(counts)).value
    for more in (1, 2, num):
        slopes = np.zeros(len(frequency))
        for k in np.flatnonzero(frequency):
            step = 1e-5 * (np.arange(len(frequency)) == k)
            slopes[k] = (extrapolated(frequency + step, more) - extrapolated(frequency - step, more)) / 2e-5
        variance = frequency @ slopes**2 - (frequency @ slopes) ** 2 / total
        low = curve.found[num + more - 1] - 1.959964 * np.sqrt(variance)
        assert curve.low[num + more - 1] == pytest.approx(max(low, 1), rel=1e-6)
    n = num // 2
    met = np.array([1 - comb(num - count, n) / comb(num, n) for count in counts])
    low = met.sum() - 1.959964 * np.sqrt((met**2).sum() - met.sum() ** 2 / total)
    assert curve.low[n - 1] == pytest.approx(max(low, 1), rel=1e-6)


@pytest.mark.parametrize(("p", "num"), [(UNIFORM, 30), (UNIFORM, 100), (GEOMETRIC, 50), (GEOMETRIC, 200)])
def test_the_curve_and_its_band_agree_with_the_population(rng, p, num):
    truth = lambda n: float(np.sum(1 - (1 - p) ** n))  # noqa: E731
    within, halfway, twice = [], [], []
    for _ in range(200):
        curve = discovery_curve(rng.choice(len(p), num, p=p))
        halfway.append(curve.found[num // 2 - 1])
        twice.append(curve.found[2 * num - 1])
        within.append(curve.low[num // 2 - 1] <= truth(num // 2) <= curve.high[num // 2 - 1])
    assert np.mean(halfway) == pytest.approx(truth(num // 2), rel=0.02)  # rarefaction is unbiased
    assert np.mean(twice) == pytest.approx(truth(2 * num), rel=0.05)
    assert np.mean(within) > 0.88


def test_published_numbers_are_found_again():
    """The lower ends, 30.511 and 43.502, down to whole numbers."""
    published = [(SPIDERS, 43.893, (30, 96.971)), (LOGGED, 61.403, (43, 128.583))]
    for counts, value, ci in published:
        spiders = chao1(restarts_of(counts))
        assert spiders.value == pytest.approx(value, abs=5e-4)
        assert spiders.ci == pytest.approx(ci, abs=5e-4)
    beetles = discovery_curve(restarts_of(BEETLES))
    assert beetles.found[236] == pytest.approx(112, rel=1e-12)
    assert (beetles.high[236] - 112) / 1.959964 == pytest.approx(9.22, abs=0.005)
    assert (beetles.high[336] - beetles.found[336]) / 1.959964 == pytest.approx(12.20, abs=0.01)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ([1], 1), ([5], 1), ([2, 2], 2), ([3, 3, 1], 3), ([1, 1], 2 + 1 / 2), ([1] * 6, 6 + 5 / 6 * 15),
        ([2, 1], 2 + 2 / 3 / 2), ([2, 2, 1, 1, 1], 5 + 6 / 7 * 9 / 4), ([9, 1, 1], 3 + 10 / 11),
    ],
)  # fmt: skip
def test_chao1_in_closed_form(counts, value):
    found = chao1(restarts_of(counts))
    assert (found.value, found.n, found.unit) == (pytest.approx(value, rel=1e-14), sum(counts), "")


@pytest.mark.parametrize("counts", SAMPLES, ids=str)
def test_the_interval_of_chao1_holds_its_value_and_never_falls_below_what_was_found(counts):
    found = chao1(restarts_of(counts))
    assert (found.ci is None) == (max(counts) == 1)
    if found.ci is not None:
        assert len(counts) <= found.ci[0] <= found.value <= found.ci[1] < np.inf


@pytest.mark.parametrize("num", [50, 100, 200])
def test_the_interval_of_chao1_covers_minima_of_equal_basins(rng, num):
    found = [chao1(rng.choice(20, num)) for _ in range(300)]
    assert np.mean([inside(20, one.ci) for one in found]) > 0.85


@pytest.mark.parametrize("num", [50, 100, 200])
def test_chao1_is_a_lower_bound_for_minima_of_unequal_basins(rng, num):
    shares = np.concatenate([GEOMETRIC[:30], np.full(100, 1e-3)])
    found = [chao1(rng.choice(130, num, p=shares / shares.sum())).value for _ in range(200)]
    assert np.median(found) <= 130 * 1.1
    assert np.median([chao1(rng.choice(200, num, p=GEOMETRIC)).value for _ in range(200)]) <= 200 * 1.1


@pytest.mark.parametrize("p", [UNIFORM, GEOMETRIC], ids=["uniform", "geometric"])
@pytest.mark.parametrize("num", [4, 8, 50, 100, 200])
def test_coverage_is_unbiased_and_its_interval_covers(rng, p, num):
    within, values = [], []
    for _ in range(400):
        labels = rng.choice(len(p), num, p=p)
        found = coverage(labels)
        within.append(inside(p[np.unique(labels)].sum(), found.ci))
        values.append(found.value)
    expected = 1 - np.sum(p * (1 - p) ** (num - 1))  # of num - 1 restarts
    assert np.mean(values) == pytest.approx(expected, abs=float(4 * np.std(values) / 20))
    assert np.mean(within) > 0.9


@pytest.mark.parametrize("num", [2, 5, 30])
def test_coverage_of_none_and_of_all_is_at_least_as_uncertain_as_a_binomial_share(num):
    for labels, known in ((np.zeros(num, int), num), (np.arange(num), 0)):
        exact = binomtest(known, num).proportion_ci(0.95, method="exact")
        found = coverage(labels)
        assert (found.value, found.n, found.unit) == (known / num, num, "share")
        assert found.ci is not None
        assert found.ci[0] <= exact.low
        assert found.ci[1] >= exact.high
        assert num < 30 or found.ci[1] - found.ci[0] < 5 / num
    assert coverage(np.array([7])) == Estimate(0.0, None, 1, "share")


def test_the_interval_of_coverage_is_estys_where_there_are_many_restarts():
    labels = restarts_of([*[40] * 200, *[2] * 300, *[1] * 400])
    half = 1.959964 * np.sqrt(400 * (1 - 400 / 9000) + 2 * 300) / 9000
    found = coverage(labels)
    assert found.ci == pytest.approx((1 - 400 / 9000 - half, 1 - 400 / 9000 + half), abs=0.05 * half)


@pytest.mark.parametrize("counts", [counts for counts in SAMPLES if sum(counts) > 1], ids=str)
def test_coverage_is_never_without_width(counts):
    found = coverage(restarts_of(counts))
    assert inside(found.value, found.ci)
    assert found.ci is not None
    assert 0 <= found.ci[0] < found.ci[1] <= 1
    assert found.value == pytest.approx(1 - counts.count(1) / sum(counts))


def test_basins_come_by_size_and_then_by_label(rng):
    labels = rng.permutation(np.array([5] * 3 + [-2] * 3 + [9] * 7 + [0]))
    shares = basin_shares(labels)
    assert shares.label.tolist() == [9, -2, 5, 0]
    assert shares.count.tolist() == [7, 3, 3, 1]
    np.testing.assert_array_equal(shares.share, shares.count / 14)
    for count, low, high in zip(shares.count, shares.low, shares.high, strict=True):
        exact = binomtest(int(count), 14).proportion_ci(0.95, method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), rel=1e-12)


def test_a_single_basin_has_an_interval_up_to_all():
    shares = basin_shares(np.full(20, 4))
    assert (shares.label.tolist(), shares.share.tolist(), shares.high.tolist()) == ([4], [1.0], [1.0])
    assert shares.low == pytest.approx(0.025 ** (1 / 20), rel=1e-12)


@pytest.mark.parametrize("function", [discovery_curve, chao1, coverage, basin_shares])
def test_names_of_minima_do_not_matter(rng, function):
    labels = rng.choice(20, 60, p=UNIFORM)
    names = rng.permutation(1000)[:20] - 500
    one, other = function(labels), function(names[labels])
    if isinstance(one, Estimate):
        assert one == other
    else:
        fields = ("count", "share", "low", "high") if function is basin_shares else ("found", "low", "high")
        for field in fields:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("function", [discovery_curve, chao1, coverage, basin_shares])
@pytest.mark.parametrize(
    "labels", [np.zeros(0, int), np.zeros((2, 2), int), np.array(3), np.zeros(3), np.ones(2, bool)]
)
def test_what_is_no_list_of_labels_is_refused(function, labels):
    unchecked = getattr(function, "__wrapped__", function)  # users have no type checker
    with pytest.raises(ValueError, match="one integer for each restart"):
        unchecked(labels)
    if labels.size:
        with pytest.raises(TypeCheckError):
            function(labels)


@pytest.mark.parametrize("factor", [0.5, -1.0, np.inf, np.nan])
def test_a_curve_is_extrapolated_forwards(factor):
    with pytest.raises(ValueError, match="at least 1 is expected"):
        discovery_curve(np.arange(3), factor=factor)
