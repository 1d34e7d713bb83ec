import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, population, zero_targets

from analysis.landscape import custom_plane, shadows
from wspace.data import Dataset
from wspace.models import MLP
from wspace.objective import evaluate
from wspace.tree import pick, stack_params


def bowl(*diagonal):
    return Bowl(tuple(map(tuple, np.diag(np.sqrt(diagonal)))))


def test_shadows_on_a_bowl_are_known():
    """loss = x^2 + 4 y^2 + 9 z^2; the plane z = 1."""
    model, data = bowl(1, 4, 9), zero_targets(3)
    plane = custom_plane({"theta": np.array([0.0, 0, 1])}, {"theta": np.array([[2.0, 0, 0], [0, 1, 0]])})
    theta = np.array([[1.0, 1, 1], [2, -1, 3], [0, 0, 1], [0, 0, 0]])
    found = shadows(model, "squared_error", plane, population(theta), data)
    np.testing.assert_allclose(found.coordinates, [[0.5, 1], [1, -1], [0, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.residual, [0, 2, 0, 1], atol=1e-12)
    np.testing.assert_allclose(found.away, np.linalg.norm(theta - [0, 0, 1], axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.off, [0, 4 / 9, 0, 1], atol=1e-12)
    np.testing.assert_allclose(found.values["train_loss"], model.loss(theta), rtol=1e-6)
    flat = theta * [1, 1, 0] + [0, 0, 1]
    np.testing.assert_allclose(found.shadow["train_loss"], model.loss(flat), rtol=1e-6)
    np.testing.assert_allclose(found.values["test_loss"], found.values["train_loss"], rtol=1e-6)


@pytest.mark.parametrize("num", [1, 3, 70])
def test_networks_are_measured_as_runs_measure_them(num, rng):
    """More networks than are measured at once, and an MLP, whose first layer takes the short cut."""
    model = MLP((4, 6, 3), "tanh")
    params = stack_params([model.init(key) for key in jax.random.split(jax.random.key(0), num)])
    x, y = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(3, size=20).astype(np.int32)
    data = Dataset("own", "classification", x, y, x[:7], y[:7], 3, (4,), (), ())
    first = pick(params, 0)
    directions = jax.tree.map(lambda leaf: rng.standard_normal((2, *leaf.shape)), first)
    plane = custom_plane(first, directions)
    found = shadows(model, "cross_entropy", plane, params, data, metrics=("train_loss", "test_accuracy"))
    expected = evaluate(model, "cross_entropy", params, data)
    for name in ("train_loss", "test_accuracy"):
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-5)
    nearest = evaluate(model, "cross_entropy", jax.tree.map(jnp.float32, plane.at(found.coordinates)), data)
    np.testing.assert_allclose(found.shadow["train_loss"], nearest["train_loss"], rtol=1e-4)
    assert found.residual[0] == pytest.approx(0, abs=1e-6)
    assert found.shadow["train_loss"][0] == pytest.approx(found.values["train_loss"][0], rel=1e-5)


def test_unknown_metrics_and_no_networks_are_refused():
    plane = custom_plane({"theta": np.zeros(2)}, {"theta": np.eye(2)[:1]})
    with pytest.raises(ValueError, match=r"\['speed'\] are unknown"):
        shadows(bowl(1, 1), "squared_error", plane, population(np.ones((1, 2))), zero_targets(2), metrics=("speed",))
    with pytest.raises(ValueError, match="no networks"):
        shadows(bowl(1, 1), "squared_error", plane, population(np.ones((0, 2))), zero_targets(2))
