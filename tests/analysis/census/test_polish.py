import importlib

import jax
import numpy as np
import pytest
from problems import Bowl, Wells, corners, zero_targets
from problems_census import inits, noisy_regression, stacked, xor
from scipy.optimize import minimize

from analysis.census import polish
from analysis.curvature import Objective, gradients
from analysis.curvature.hessian import values
from wspace.models import MLP
from wspace.tree import Layout

MODULE = importlib.import_module("analysis.census.polish")  # the package has a function of this name


def test_a_bowl_is_polished_to_its_bottom(rng):
    root = rng.standard_normal((3, 3)) + 3 * np.eye(3)
    objective = Objective(Bowl(tuple(map(tuple, root))), "squared_error", zero_targets(3))
    start = rng.standard_normal((5, 3))
    found = polish(objective, stacked(*start))
    assert found.stationary.all()
    np.testing.assert_allclose(found.params["theta"], 0, atol=1e-9)
    np.testing.assert_allclose(found.before, [np.sum((t @ root.T) ** 2) for t in start], rtol=1e-12)
    np.testing.assert_allclose(found.moved, np.linalg.norm(start, axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.gradient_before, np.linalg.norm(2 * start @ root.T @ root, axis=1), rtol=1e-12)
    assert found.params["theta"].dtype == np.float64
    assert not jax.config.read("jax_enable_x64")


def test_newton_alone_takes_one_step_on_a_bowl(rng):
    objective = Objective(Bowl(((2.0, 1.0), (0.0, 3.0))), "squared_error", zero_targets(2))
    found = polish(objective, stacked(*rng.standard_normal((4, 2))), max_steps=0)
    assert found.steps.tolist() == [0] * 4
    assert found.newton_steps.max() <= 2
    np.testing.assert_allclose(found.params["theta"], 0, atol=1e-12)


def test_newton_leaves_a_maximum_only_downhill(rng):
    """Near the top of (theta^2 - 1)^2 a plain Newton step would climb to it."""
    start = 0.05 * rng.standard_normal((20, 3))
    objective = Objective(Wells(), "squared_error", zero_targets(3))
    found = polish(objective, stacked(*start), max_steps=0, newton_steps=200)
    assert np.all(found.after <= found.before)
    assert found.stationary.all()
    np.testing.assert_allclose(np.abs(found.params["theta"]), 1, atol=1e-8)
    np.testing.assert_array_equal(np.sign(found.params["theta"]), np.sign(start))


def test_what_is_stationary_stays_where_it_is():
    objective = Objective(Wells(), "squared_error", zero_targets(2))
    there = np.concatenate([corners(2), [[0.0, 0.0], [0.0, 1.0]]])  # wells, the top, a saddle
    found = polish(objective, stacked(*there))
    np.testing.assert_array_equal(found.params["theta"], there)
    assert found.steps.tolist() == found.newton_steps.tolist() == [0] * 6
    assert found.stationary.all()
    assert found.moved.max() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "make"), [("cross_entropy", lambda rng: xor()), ("squared_error", noisy_regression)])
def test_networks_end_where_scipy_does_or_lower(rng, kind, make):
    data = make(rng)
    model = MLP((2, 3, data.num_outputs), "tanh")
    objective = Objective(model, kind, data, l2=1e-2)
    params = inits(model, 6)
    found = polish(objective, params)
    assert found.stationary.all()
    assert np.all(found.after <= found.before)
    np.testing.assert_allclose(
        np.linalg.norm(gradients(objective, found.params), axis=1), found.gradient_after, atol=1e-14
    )
    np.testing.assert_allclose(values(objective, found.params), found.after, rtol=1e-13)
    layout = Layout.of(jax.tree.map(lambda leaf: leaf[0], params))

    def function(theta):
        one = layout.unravel(theta)
        return float(values(objective, one, batch_ndim=0)), gradients(objective, one, batch_ndim=0)

    for i in range(2):
        start = np.concatenate([leaf[i].ravel() for leaf in jax.tree.leaves(found.params)])
        around = minimize(function, start + 1e-3 * rng.standard_normal(len(start)), jac=True, options={"gtol": 1e-9})
        np.testing.assert_allclose(around.fun, found.after[i], rtol=1e-9)
        np.testing.assert_allclose(around.x, start, atol=1e-5)


def test_each_network_is_polished_as_if_alone():
    objective = Objective(MLP((2, 3, 2), "tanh"), "cross_entropy", xor(), l2=1e-2)
    params = inits(objective.model, 5)
    together = polish(objective, params)
    for i in (0, 3):
        alone = polish(objective, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params))
        assert alone.stationary.all()
        np.testing.assert_allclose(alone.after[0], together.after[i], rtol=1e-12)
        for one, every in zip(jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True):
            np.testing.assert_allclose(one[0], every[i], atol=1e-7)


def test_without_newton_l_bfgs_does_it_alone():
    objective = Objective(MLP((2, 3, 2), "tanh"), "cross_entropy", xor(), l2=1e-2)
    found = polish(objective, inits(objective.model, 4), newton_params=0, tolerance=1e-8)
    assert found.stationary.all()
    assert found.newton_steps.tolist() == [0] * 4


def test_steps_that_are_used_up_are_no_failure():
    objective = Objective(MLP((2, 3, 2), "tanh"), "cross_entropy", xor(), l2=1e-2)
    found = polish(objective, inits(objective.model, 4), max_steps=3, newton_steps=0)
    assert found.steps.tolist() == [3] * 4
    assert not found.stationary.any()
    assert np.all(found.after < found.before)


def test_wrong_arguments_are_refused():
    objective = Objective(Wells(), "squared_error", zero_targets(2))
    with pytest.raises(ValueError, match="tolerance = 0"):
        polish(objective, stacked([0.0, 1.0]), tolerance=0)
    with pytest.raises(ValueError, match="max_steps = -1"):
        polish(objective, stacked([0.0, 1.0]), max_steps=-1)
    with pytest.raises(ValueError, match="not finite"):
        polish(objective, stacked([0.0, np.nan]))
