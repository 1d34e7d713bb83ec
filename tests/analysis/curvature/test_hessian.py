import dataclasses

import jax
import numpy as np
import pytest
from curved import SIZES, examples, networks, numpy_values, plain, planted, rows, tanh_problem
from problems import Wells, zero_targets

from analysis.curvature import Objective, gradients, hessian, hessian_products, hessians
from analysis.curvature.hessian import values
from wspace import MLP
from wspace.tree import Layout, pick

FUNCTIONS = [
    ("cross_entropy", "classes", "tanh", 0.1, "train"),
    ("squared_error", "targets", "relu", 0.3, "test"),
    ("squared_error", "classes", "gelu", 0.0, "test"),
]


def problem(rng, kind, data, activation, l2, split):
    return Objective(MLP(SIZES, activation), kind, examples(rng, data), split, l2), networks(rng)


@pytest.mark.parametrize("parts", FUNCTIONS)
def test_derivatives_are_those_of_the_function_written_in_numpy(rng, parts):
    """Value by NumPy; gradient, Hessian and products by JAX on all examples at once, and by central differences."""
    function, params = problem(rng, *parts)
    value = lambda theta: numpy_values(function, Layout.of(pick(params, 0)), theta)  # noqa: E731
    theta = rows(params)
    np.testing.assert_allclose(values(function, params), value(theta), rtol=1e-13)

    gradient, matrices = gradients(function, params), hessians(function, params)
    np.testing.assert_allclose(gradient, plain(jax.grad, function, params), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(matrices, plain(jax.hessian, function, params), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(matrices, np.swapaxes(matrices, 1, 2))
    assert (gradient.dtype, matrices.dtype) == (np.float64, np.float64)

    v = rng.standard_normal((3, 3, 31))
    products = hessian_products(function, params, v)
    np.testing.assert_allclose(products, v @ matrices, rtol=1e-11, atol=1e-12)
    layout, step = Layout.of(pick(params, 0)), 1e-6
    for k in range(2):
        ahead, behind = (theta + sign * step * v[:, k] for sign in (1, -1))
        slope = (value(ahead) - value(behind)) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * v[:, k], axis=1), slope, rtol=1e-6, atol=1e-8)
        ahead, behind = (gradients(function, layout.unravel(at)) for at in (ahead, behind))
        np.testing.assert_allclose(products[:, k], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_l2_term_adds_its_multiple_of_the_identity_and_of_theta(rng):
    function, params = tanh_problem(rng, l2=0.0)
    more = dataclasses.replace(function, l2=0.7)
    theta, v = rows(params), rng.standard_normal((3, 3, 31))
    np.testing.assert_allclose(values(more, params), values(function, params) + 0.35 * np.sum(theta**2, axis=1))
    np.testing.assert_allclose(gradients(more, params), gradients(function, params) + 0.7 * theta, atol=1e-13)
    np.testing.assert_allclose(hessians(more, params), hessians(function, params) + 0.7 * np.eye(31), atol=1e-13)
    difference = hessian_products(more, params, v) - hessian_products(function, params, v)
    np.testing.assert_allclose(difference, 0.7 * v, atol=1e-12)


def test_hessians_written_down_by_hand(rng):
    """Wells: 12 theta^2 - 4 on the diagonal, 4 theta (theta^2 - 1) as gradient; and the planted one of other tests."""
    function, theta = Objective(Wells(), "squared_error", zero_targets(6)), rng.standard_normal((2, 6))
    found = hessians(function, {"theta": theta})
    np.testing.assert_allclose(found, np.stack([np.diag(12 * t**2 - 4) for t in theta]), atol=1e-14)
    np.testing.assert_allclose(gradients(function, {"theta": theta}), 4 * theta * (theta**2 - 1), atol=1e-14)
    wanted = np.sort(4 * rng.standard_normal((2, 9)) ** 2 - 4)
    function, params = planted(4 * wanted, scale=4.0, l2=0.5)
    found = hessians(function, params)
    np.testing.assert_allclose(np.linalg.eigvalsh(found), 4 * wanted + 0.5, atol=1e-13)
    assert np.abs(found).min() > 1e-3  # no entry is 0: nothing is right by accident


def test_rows_and_columns_are_picked(rng):
    function, params = tanh_problem(rng)
    full = hessians(function, params)
    at = np.array([4, 0, 30, 4, 17])
    np.testing.assert_allclose(hessians(function, params, at=at), full[:, at[:, None], at], atol=1e-13)


@pytest.mark.parametrize("at", [[31], [-1], [0, 40], [], [1.0], [[0, 1]], 3, [True, False]])
def test_positions_outside_of_theta_are_refused(rng, at):
    """JAX takes the nearest position for one that is not there, and a wrong number comes out."""
    function, params = tanh_problem(rng)
    with pytest.raises(ValueError, match="a list of positions, whole numbers from 0 to 30, is expected"):
        hessians(function, params, at=np.array(at))


def test_hessians_that_do_not_fit_are_refused_before_any_work(rng, monkeypatch):
    function, params = tanh_problem(rng)
    monkeypatch.setattr(hessian, "MAX_BYTES", 8 * 3 * 31**2)
    assert hessians(function, params).nbytes == hessian.MAX_BYTES
    monkeypatch.setattr(hessian, "MAX_BYTES", 8 * 3 * 31**2 - 1)
    with pytest.raises(ValueError, match=r"3 Hessians of 31 rows take 0\.0 GB, 0 are allowed: take fewer networks"):
        hessians(function, params)
    assert hessians(function, params, at=np.array([4, 0, 30, 4, 17])).shape == (3, 5, 5)
    monkeypatch.undo()
    wide = {"theta": np.zeros((2, 20_000))}
    with pytest.raises(ValueError, match=r"2 Hessians of 20000 rows take 6\.0 GB, 2 are allowed"):
        hessians(Objective(Wells(), "squared_error", zero_targets(20_000, 1)), wide)


def test_vectors_that_do_not_fit_the_params_are_refused(rng):
    function, params = tanh_problem(rng)
    for shape in ((3, 31), (3, 2, 30), (2, 2, 31), (2, 31), (1, 3, 2, 31)):
        with pytest.raises(ValueError, match=r"vectors of shape \(.*\): \(3, 'vector', 31\) is expected"):
            hessian_products(function, params, np.ones(shape))
    with pytest.raises(ValueError, match=r"\('vector', 31\) is expected"):
        hessian_products(function, pick(params, 0), np.ones((2, 30)), batch_ndim=0)
