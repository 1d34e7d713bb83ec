import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.decomposition import PCA

from analysis.projection import walks
from analysis.projection.walks import (
    compare,
    cosine_shares,
    expected_gram,
    grams,
    p_value,
    pooled_walks,
    scattered,
    step_norms,
    walk,
)


def plain_walk(norms, num_params, rng):
    """Every step drawn in weight space itself."""
    steps = rng.standard_normal((len(norms), num_params))
    steps *= norms[:, None] / np.linalg.norm(steps, axis=1, keepdims=True)
    return np.concatenate([np.zeros((1, num_params)), np.cumsum(steps, axis=0)])


def shares_of(points, num):
    return PCA(num, svd_solver="full").fit(points).explained_variance_ratio_


@pytest.mark.parametrize(("num_steps", "num_params"), [(6, 40), (12, 5), (7, 7), (9, 1)])
def test_a_walk_has_the_asked_step_norms_and_starts_where_it_is_told(num_steps, num_params, rng):
    norms = rng.uniform(0.5, 3, (3, num_steps))
    starts = rng.standard_normal((3, 1))
    points = walk(norms, num_params, starts=starts, rng=rng)
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=1), axis=2), norms, rtol=1e-12)
    np.testing.assert_array_equal(points[:, 0, 0], starts[:, 0])
    assert np.all(points[:, 0, 1:] == 0)
    assert points.shape[2] <= num_params


@pytest.mark.parametrize("num_params", [3, 5, 6, 7, 30])
def test_the_short_cut_has_the_distribution_of_a_walk_in_weight_space(num_params, rng):
    """Bartlett's factor against steps drawn one by one: the same distribution of the first share."""
    norms = np.array([1.0, 2.0, 0.5, 1.0, 1.5, 3.0])
    short = [shares_of(walk(norms[None], num_params, rng=rng)[0], 2)[0] for _ in range(400)]
    plain = [shares_of(plain_walk(norms, num_params, rng), 2)[0] for _ in range(400)]
    assert kstest(short, plain).pvalue > 1e-3


def test_the_published_shares_of_a_random_walk(rng):
    """Antognini & Sohl-Dickstein 2018 (1806.08805): 60.8 % about the mean, and 81 % anchored at the end."""
    norms = np.ones((1, 299))
    points = np.array([walk(norms, 20_000, rng=rng)[0] for _ in range(20)])
    leading = lambda rows: (values := np.linalg.eigvalsh(rows @ rows.T))[-1] / values.sum()  # noqa: E731
    first = np.array([leading(p - p.mean(axis=0)) for p in points])
    anchored = np.array([leading(p - p[-1]) for p in points])
    for found, share in ((first, 0.6079), (anchored, 0.8106)):
        assert abs(found.mean() - share) < 4 * found.std(ddof=1) / np.sqrt(len(found)) + 1e-3
        assert found.std() < 0.05


def test_expected_shares_approach_the_closed_forms_and_the_components_are_cosines():
    num = 400
    gram = expected_gram(np.ones((1, num - 1)))
    for centre in ("mean", "init", "final"):
        shares, _ = walks._components(gram, centre, np.ones(num), 4)
        np.testing.assert_allclose(shares[0], cosine_shares(4, centre), rtol=0.01)
    _, curves = walks._components(gram, "mean", np.ones(num), 4)
    cosines = np.cos(np.pi * np.arange(1, 5) * (np.arange(num)[:, None] + 0.5) / num)
    np.testing.assert_allclose(walks._fit(curves[0], cosines / np.linalg.norm(cosines, axis=0)), 1, rtol=1e-10)
    assert cosine_shares(100_000).sum() == pytest.approx(1, abs=1e-5)
    assert cosine_shares(100_000, "final").sum() == pytest.approx(1, abs=1e-5)


def test_the_expected_gram_is_the_mean_of_those_of_walks(rng):
    norms = np.array([1.0, 3.0, 0.5, 2.0])
    found = np.mean([grams(walk(norms[None], 6, rng=rng))[0] for _ in range(4000)], axis=0)
    np.testing.assert_allclose(found, expected_gram(norms), atol=0.25)
    np.testing.assert_allclose(step_norms(expected_gram(norms)), norms, rtol=1e-12)


def test_shares_are_those_of_scikit_learn(rng):
    theta = np.cumsum(rng.standard_normal((3, 9, 20)), axis=1)
    null = compare(grams(theta), 20, 4, num_walks=3, rng=rng)
    np.testing.assert_allclose(null.shares, [shares_of(t, 4) for t in theta], rtol=1e-10)


@pytest.mark.parametrize("centre", ["mean", "init", "final"])
def test_weights_count_checkpoints_as_often_as_they_say(centre, rng):
    theta = rng.standard_normal((1, 6, 8))
    weights = np.array([1, 2, 1, 3, 1, 2])
    repeated = np.repeat(theta[0], weights, axis=0)
    at = {"mean": repeated.mean(axis=0), "init": theta[0, 0], "final": theta[0, -1]}[centre]
    values = np.linalg.svd(repeated - at, compute_uv=False) ** 2
    null = compare(grams(theta), 8, 3, centre=centre, weights=weights.astype(float), num_walks=1, rng=rng)
    np.testing.assert_allclose(null.shares[0], values[:3] / values.sum(), rtol=1e-10)


def test_walks_are_not_told_from_walks_but_directed_motion_is(rng):
    """p-values of true walks are uniform; a line with noise has more in its first component, a circle less."""
    norms = rng.uniform(0.5, 2, (4, 11))
    p = [
        compare(grams(np.array([plain_walk(n, 50, rng) for n in norms])), 50, 2, num_walks=59, rng=rng).p_shares[0]
        for _ in range(60)
    ]
    assert kstest(p, "uniform").pvalue > 1e-3
    time = np.linspace(0, 1, 12)[:, None]
    line = time * rng.standard_normal((3, 1, 300)) + 0.002 * rng.standard_normal((3, 12, 300))
    straight = compare(grams(line), 300, 2, num_walks=199, rng=rng)
    assert straight.p_shares[0] <= 0.01
    assert straight.shares[:, 0].min() > straight.walks[:, :, 0].max()
    circle = np.zeros((2, 12, 300))
    circle[:, :, 0], circle[:, :, 1] = np.cos(2 * np.pi * time[:, 0]), np.sin(2 * np.pi * time[:, 0])
    round_ = compare(grams(circle), 300, 2, num_walks=199, rng=rng)
    assert round_.p_shares[0] <= 0.01
    assert round_.shares[:, 0].max() < round_.walks[:, :, 0].min()
    assert round_.p_fit[0] <= 0.01


def test_the_fit_of_a_planted_cosine_is_perfect(rng):
    """A trajectory whose coordinates are the cosines themselves, scaled so that its steps are nearly equal."""
    num = 60
    modes = np.arange(1, num)
    cosines = np.cos(np.pi * modes * (np.arange(num)[:, None] + 0.5) / num) / np.sin(np.pi * modes / (2 * num))
    null = compare(grams(cosines[None]), num - 1, 4, num_walks=9, rng=rng)
    np.testing.assert_allclose(null.fit, 1, atol=1e-3)


def test_pooled_walks_reduce_to_single_ones_and_spread_over_their_starts(rng):
    one = walk(np.ones((1, 20)), 1000, rng=rng)
    alone = pooled_walks(one, 3, num_walks=50, rng=rng)
    single = compare(grams(one), one.shape[2], 3, num_walks=50, rng=rng).walks[:, 0]
    np.testing.assert_allclose(alone.mean(axis=0), single.mean(axis=0), atol=0.03)
    three = walk(np.ones((3, 5)), 200, starts=1000 * np.eye(3), rng=rng)
    np.testing.assert_allclose(pooled_walks(three, 3, num_walks=5, rng=rng)[:, :2], 0.5, atol=0.01)  # a triangle
    for centre in ("init", "final"):
        own = pooled_walks(three, 3, centre=centre, num_walks=200, rng=rng)
        none = pooled_walks(three - three[:, :1], 3, centre=centre, num_walks=200, rng=rng)
        np.testing.assert_allclose(own.mean(axis=0), none.mean(axis=0), atol=0.02)
    narrow = pooled_walks(rng.standard_normal((3, 5, 2)), 3, num_walks=5, rng=rng)
    np.testing.assert_allclose(narrow[:, :2].sum(axis=1), 1)


def test_pooled_walks_cannot_be_told_from_walks(rng):
    """The first share of true walks from given starts has the distribution of the null."""
    starts = 3 * rng.standard_normal((3, 40))
    norms = rng.uniform(0.5, 2, (3, 8))
    theta = np.array([[s + plain_walk(n, 40, rng) for s, n in zip(starts, norms, strict=True)] for _ in range(200)])
    observed = [shares_of(t.reshape(-1, 40), 1)[0] for t in theta]
    null = pooled_walks(theta[0], 1, num_walks=200, rng=rng)[:, 0]
    assert kstest(observed, null).pvalue > 1e-3


def test_scattered_points_have_equal_shares_in_many_dimensions(rng):
    points = np.eye(6)
    wide = scattered(np.pad(points, ((0, 0), (0, 20_000))), 2, num_draws=20, rng=rng)
    np.testing.assert_allclose(wide, 1 / 5, atol=0.02)
    plain = rng.standard_normal((300, 6, 8))
    plain /= np.linalg.norm(plain, axis=2, keepdims=True)
    observed = [shares_of(p, 1)[0] for p in plain]
    assert kstest(observed, scattered(plain[0], 1, num_draws=300, rng=rng)[:, 0]).pvalue > 1e-3
    with pytest.raises(ValueError, match="6 components take at least 7 points, got 6"):
        scattered(points, 6, rng=rng)


def test_curves_have_the_signs_of_what_they_are_compared_with(rng):
    theta = np.cumsum(rng.standard_normal((4, 9, 30)), axis=1)
    weights = rng.uniform(0.5, 2, 9)
    null = compare(grams(theta), 30, 3, weights=weights, num_walks=2, rng=rng)
    np.testing.assert_allclose(np.einsum("t,stk->sk", weights, null.curves**2), 1)
    np.testing.assert_allclose(np.einsum("t,stk->sk", weights, null.expected_curves**2), 1)
    products = np.einsum("t,stk,stk->sk", weights, null.curves, null.expected_curves)
    assert np.all(products >= 0)
    np.testing.assert_allclose(products**2, null.fit)
    assert np.all(null.expected_curves[0, 0] > 0)
    assert np.all(np.einsum("t,stk,tk->sk", weights, null.expected_curves, null.expected_curves[0]) > 0)
    np.testing.assert_allclose(np.einsum("t,stk->sk", weights, null.curves), 0, atol=1e-9)  # about the weighted mean


def test_nothing_depends_on_a_rotation_a_shift_or_the_unit(rng):
    theta = rng.standard_normal((2, 7, 10)).cumsum(axis=1)
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    one = compare(grams(theta), 10, 3, num_walks=5, rng=np.random.default_rng(1))
    other = compare(grams(4 * theta @ rotation + 7), 10, 3, num_walks=5, rng=np.random.default_rng(1))
    for name in ("shares", "walks", "expected", "fit", "walks_fit", "p_shares", "p_fit"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-7, atol=1e-9)


def test_p_values_count_draws(rng):
    null = np.arange(1.0, 100)[:, None]
    assert p_value(np.array([99.5]), null, "larger") == 0.01
    assert p_value(np.array([0.5]), null, "smaller") == 0.01
    assert p_value(np.array([0.5]), null) == 0.02
    assert p_value(np.array([50.0]), null) == 1


def test_what_does_not_move_is_left_out_and_what_cannot_be_analysed_is_refused(rng):
    theta = np.cumsum(rng.standard_normal((2, 5, 9)), axis=1)
    theta[1] = theta[1, :1]
    null = compare(grams(theta), 9, 2, num_walks=9, rng=rng)
    assert np.isnan(null.shares[1]).all()
    assert np.isfinite(null.p_shares).all()
    still = compare(grams(theta[1:]), 9, 2, num_walks=9, rng=rng)
    assert np.isnan(still.p_shares).all()
    with pytest.raises(ValueError, match="5 components take at least 6 checkpoints, got 5"):
        compare(grams(theta), 9, 5, rng=rng)
    with pytest.raises(ValueError, match="6 components take at least 7 points, got 6"):
        pooled_walks(theta[:, :3], 6, rng=rng)
    with pytest.raises(ValueError, match="weights"):
        compare(grams(theta), 9, 2, weights=np.zeros(5), rng=rng)
    with pytest.raises(ValueError, match="starts have 3 coordinates, weight space has 2"):
        walk(np.ones((1, 2)), 2, starts=np.zeros((1, 3)), rng=rng)
    theta[0, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"trajectories \[0\] are not finite"):
        compare(grams(theta), 9, 2, rng=rng)
