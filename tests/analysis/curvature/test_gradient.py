import jax
import numpy as np
import pytest
from curved import tanh_problem
from problems import Bowl, Wells, zero_targets
from scipy import stats

from analysis.curvature import (
    Objective,
    eigenspace_overlaps,
    extremes,
    gradient_shares,
    gradients,
    hessians,
    lanczos,
    outliers,
)

ROOTS = np.linspace(1, 2, 12)  # of a Bowl: eigenvalues 2 roots^2


def bowl(rng):
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    return Objective(Bowl(tuple(map(tuple, np.diag(ROOTS) @ turn.T))), "squared_error", zero_targets(12)), turn


@pytest.mark.parametrize("dense", [400, 0])
def test_shares_of_a_quadratic_in_closed_form(rng, monkeypatch, dense):
    """The gradient is 2 root^2 times the coordinate along each eigenvector."""
    monkeypatch.setattr(lanczos, "DENSE", dense)
    function, turn = bowl(rng)
    theta = rng.standard_normal((2, 3, 12))
    along = 2 * ROOTS**2 * (theta @ turn)
    for num in (1, 4, 11):
        found = gradient_shares(function, {"theta": theta}, num, rng=rng, batch_ndim=2)
        expected = np.sum(along[..., 12 - num :] ** 2, axis=-1) / np.sum(along**2, axis=-1)
        np.testing.assert_allclose(found.shares, expected, rtol=1e-6)
        np.testing.assert_allclose(found.norms, np.linalg.norm(along, axis=-1), rtol=1e-12)
        assert found.converged.shape == (2, 3)
        assert np.all(found.converged)
        assert (found.num, found.null, found.objective) == (num, num / 12, function.name)
        assert found.extremes.values.shape == (2, 3, num)
    one = gradient_shares(function, {"theta": theta[1, 2]}, 4, rng=rng, batch_ndim=0)
    assert one.shares.shape == one.norms.shape == one.converged.shape == ()
    np.testing.assert_allclose(one.shares, np.sum(along[1, 2, 8:] ** 2) / np.sum(along[1, 2] ** 2), rtol=1e-6)


def test_further_eigenvalues_do_not_count_for_the_share(rng):
    function, params = tanh_problem(rng)
    found = gradient_shares(function, params, 2, rng=rng, more=12, smallest=3)
    gradient, (_, columns) = gradients(function, params), np.linalg.eigh(hessians(function, params))
    inside = np.einsum("npk,np->nk", columns[:, :, -2:], gradient)
    np.testing.assert_allclose(found.shares, np.sum(inside**2, axis=1) / np.sum(gradient**2, axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.norms, np.linalg.norm(gradient, axis=1), rtol=1e-12)
    assert (found.extremes.num_largest, found.extremes.values.shape) == (14, (3, 17))
    pairs = extremes(function, params, 14, 3, rng=rng)
    np.testing.assert_allclose(found.extremes.values, pairs.values, atol=1e-12)
    assert outliers(found.extremes.largest).count.shape == (3,)


@pytest.mark.parametrize("num", [1, 3])
def test_random_gradients_have_the_share_that_is_stated(rng, num):
    """Bowls at places where the gradient is Gaussian, whatever the curvature: Beta(k/2, (P-k)/2), mean k/P."""
    function, turn = bowl(rng)
    theta = (rng.standard_normal((2000, 12)) / (2 * ROOTS**2)) @ turn.T
    found = gradient_shares(function, {"theta": theta}, num, rng=rng)
    assert abs(found.shares.mean() - found.null) < 4 * found.shares.std() / np.sqrt(2000)
    low, high = found.null_ci
    assert 0 < low < found.null < high < 1
    for outside in (found.shares < low, found.shares > high):
        assert abs(outside.mean() - 0.025) < 4 * np.sqrt(0.025 * 0.975 / 2000)
    assert stats.kstest(found.shares, stats.beta(num / 2, (12 - num) / 2).cdf).pvalue > 1e-3


def test_the_stated_share_of_a_random_direction_is_that_of_random_vectors(rng):
    """By plain NumPy: the share of the first k coordinates of Gaussian vectors, P = 31."""
    function, params = tanh_problem(rng)
    found = gradient_shares(function, params, 5, rng=rng)
    z = rng.standard_normal((40_000, 31)) ** 2
    shares = z[:, :5].sum(axis=1) / z.sum(axis=1)
    np.testing.assert_allclose(found.null, shares.mean(), rtol=0.02)
    np.testing.assert_allclose(found.null_ci, np.quantile(shares, [0.025, 0.975]), rtol=0.05)


def test_without_a_gradient_there_is_no_share(rng):
    function = Objective(Wells(), "squared_error", zero_targets(6))
    theta = np.array([np.ones(6), np.zeros(6), [0.5, 0, 0, 1, 1, 1]])
    found = gradient_shares(function, {"theta": theta}, 3, rng=rng)
    np.testing.assert_array_equal(np.isnan(found.shares), [True, True, False])
    np.testing.assert_allclose(found.norms, [0, 0, 4 * 0.5 * 0.75], atol=1e-14)
    assert found.shares[2] < 1e-20  # the slope is where the curvature is negative
    assert np.all(found.converged)


def test_all_of_the_gradient_may_lie_in_the_eigenspace(rng):
    function, turn = bowl(rng)
    found = gradient_shares(function, {"theta": turn[:, [11, 9]].T.copy()}, 2, rng=rng)
    np.testing.assert_allclose(found.shares, [1, 0], atol=1e-12)


def test_shares_of_eigenvectors_that_did_not_converge_are_flagged(rng, monkeypatch):
    monkeypatch.setattr(lanczos, "DENSE", 0)
    monkeypatch.setattr(lanczos, "DENSE_MOST", 0)
    function, params = tanh_problem(rng)
    assert np.all(gradient_shares(function, params, 2, rng=rng, more=1).converged)
    found = gradient_shares(function, params, 28, rng=rng)  # l2 is there 5 times: 27 can be told apart
    assert not np.any(found.converged)
    assert np.all(found.shares <= 1 + 1e-12)


def test_impossible_dimensions_are_refused(rng):
    function, params = tanh_problem(rng)
    for num in (0, -1, 31, 40):
        with pytest.raises(ValueError, match=f"num = {num}: 1 to 30 dimensions are expected"):
            gradient_shares(function, params, num, rng=rng)
    with pytest.raises(ValueError, match="largest = 30, smallest = 2: together 1 to 31 eigenvalues"):
        gradient_shares(function, params, 20, rng=rng, more=10, smallest=2)
    bad = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    with pytest.raises(ValueError, match="params are not finite"):
        gradient_shares(function, bad, 2, rng=rng)


def test_the_same_space_in_another_basis_overlaps_wholly(rng):
    basis = np.linalg.qr(rng.standard_normal((5, 30, 30)))[0]
    first, turn = basis[:, :4], np.linalg.qr(rng.standard_normal((5, 4, 4)))[0]
    np.testing.assert_allclose(eigenspace_overlaps(first, turn @ first), 1, rtol=1e-12)
    np.testing.assert_allclose(eigenspace_overlaps(first, basis[:, 4:8]), 0, atol=1e-24)
    np.testing.assert_allclose(eigenspace_overlaps(first, basis[:, 1:5]), 3 / 4, rtol=1e-12)
    assert eigenspace_overlaps(first[None], first[None]).shape == (1, 5)
    assert eigenspace_overlaps(first[0], first[0]) == pytest.approx(1)


def test_random_spaces_overlap_by_their_share_of_the_dimensions(rng):
    one, other = (np.swapaxes(np.linalg.qr(rng.standard_normal((2000, 30, 4)))[0], 1, 2) for _ in range(2))
    found = eigenspace_overlaps(one, other)
    assert np.all((found > 0) & (found < 1))
    assert abs(found.mean() - 4 / 30) < 4 * found.std() / np.sqrt(2000)
