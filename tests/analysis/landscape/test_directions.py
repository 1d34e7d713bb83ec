import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, zero_targets
from test_surface import classification, numpy_metrics, random_params, regression

from analysis.curvature import lanczos
from analysis.landscape import (
    directions as ways,
)
from analysis.landscape import (
    filter_normalised,
    hessian_directions,
    orthogonalised,
    random_directions,
)
from analysis.projection import fix_signs
from wspace import MLP, objective
from wspace.tree import Layout, ravel


def rows(directions):
    leaves = jax.tree.leaves(directions)
    return np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves], axis=1)


def drawn(rng, params):
    return jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)), params)


def test_every_unit_moves_as_far_as_its_weights_are_long(rng):
    params = random_params(rng, (4, 5, 3))
    params[0]["weight"][:, 2] = 0  # a dead unit
    direction = drawn(rng, params)
    direction[1]["weight"][:, 1] = 0
    for layer, before, after in zip(params, direction, filter_normalised(direction, params), strict=True):
        np.testing.assert_array_equal(after["bias"], 0)
        for unit in range(layer["weight"].shape[1]):
            w, d = layer["weight"][:, unit].astype(np.float64), before["weight"][:, unit]
            expected = 0 * d if not d.any() else d / np.sqrt(np.sum(d**2)) * np.sqrt(np.sum(w**2))
            np.testing.assert_allclose(after["weight"][:, unit], expected, rtol=1e-13)
            assert after["weight"].dtype == np.float64
    assert not filter_normalised(direction, params)[0]["weight"][:, 2].any()


@pytest.mark.parametrize(("shape", "unit_axis"), [((6, 2, 3, 3), 0), ((3, 3, 2, 6), -1), ((3, 6, 2), 1), ((2, 6), 1)])
def test_units_may_lie_along_any_axis(rng, shape, unit_axis):
    params = {"weight": rng.standard_normal(shape), "bias": rng.standard_normal(6), "scale": 2.0}
    direction = drawn(rng, params)
    found = filter_normalised(direction, params, unit_axis)
    assert found["bias"].shape == (6,)
    assert not np.any(found["bias"])
    assert not np.any(found["scale"])
    for unit in range(6):
        w, d, f = (np.take(a["weight"], unit, unit_axis) for a in (params, direction, found))
        np.testing.assert_allclose(f, d * np.linalg.norm(w.ravel()) / np.linalg.norm(d.ravel()), rtol=1e-13)


def test_directions_are_drawn_normalised_and_then_made_orthogonal_in_this_order(rng):
    params = random_params(rng, (4, 5, 3))
    found = random_directions(params, 3, rng=np.random.default_rng(7))
    same = np.random.default_rng(7)
    first, second, third = (
        rows(jax.tree.map(lambda d: d[None], filter_normalised(drawn(same, params), params)))[0] for _ in range(3)
    )
    got = rows(found)
    np.testing.assert_array_equal(got[0], first)
    cut = lambda v, *others: v - sum((v @ u) / (u @ u) * u for u in others)  # noqa: E731
    np.testing.assert_allclose(got[1], second := cut(second, first), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got[2], cut(third, first, second), rtol=1e-12, atol=1e-14)
    lengths = np.linalg.norm(got, axis=1)
    np.testing.assert_allclose(got @ got.T, np.diag(lengths**2), atol=1e-14 * lengths.max() ** 2)
    for layer in found:
        assert not layer["bias"].any()
        assert layer["weight"].dtype == np.float64


@pytest.mark.parametrize("filters", [True, False])
def test_directions_are_gaussian(rng, filters):
    """Uniform numbers, which a well known package draws, would all be positive, or have a kurtosis of 1.8."""
    params = ({"weight": np.ones((400, 100), np.float32)},)
    values = random_directions(params, 1, rng=rng, filters=filters)[0]["weight"].ravel()
    scaled = values / values.std()
    num = len(scaled)
    assert abs(scaled.mean()) < 5 / np.sqrt(num)
    assert abs(np.mean(scaled**3)) < 5 * np.sqrt(15 / num)
    assert (
        abs(np.mean(scaled**4) - 3) < 5 * np.sqrt(96 / num) + 6 / 400
    )  # on a sphere of 400 dimensions it is 3 - 6/402
    assert abs(values.std() - 1) < 1e-3  # as long as the weights


def test_directions_that_are_not_normalised_have_the_length_of_the_network(rng):
    params = random_params(rng, (4, 5, 3))
    size = float(np.linalg.norm(ravel(params)))
    found = rows(random_directions(params, 2, rng=np.random.default_rng(3), filters=False))
    np.testing.assert_allclose(np.linalg.norm(found[0]), size, rtol=1e-6)
    same = np.random.default_rng(3)
    first, second = (rows(jax.tree.map(lambda d: d[None], drawn(same, params)))[0] for _ in range(2))
    np.testing.assert_allclose(found[0] / np.linalg.norm(found[0]), first / np.linalg.norm(first), rtol=1e-12)
    sine = np.sqrt(1 - (first @ second) ** 2 / (first @ first) / (second @ second))
    np.testing.assert_allclose(np.linalg.norm(found[1]), size * sine, rtol=1e-6)
    assert abs(found[0] @ found[1]) < 1e-13 * size**2
    assert np.all(found != 0)  # biases move as well


def test_a_slice_does_not_know_the_scale_of_the_layers(rng):
    """A ReLU network with one layer scaled by s and the next by 1/s is the same function, and so is its slice."""
    sizes, data = (3, 6, 3), classification(rng)
    params = random_params(rng, sizes)
    scaled = (jax.tree.map(lambda leaf: 8 * leaf, params[0]), params[1] | {"weight": params[1]["weight"] / 8})
    one, other = (random_directions(p, 1, rng=np.random.default_rng(1)) for p in (params, scaled))
    plain = random_directions(scaled, 1, rng=np.random.default_rng(1), filters=False)
    loss = lambda p, d, c: numpy_metrics(  # noqa: E731
        jax.tree.map(lambda w, v: w + c * v[0], p, d), "cross_entropy", data, "relu", 0
    )["train_loss"]
    for c in (-1.0, 0.0, 0.3, 2.0):
        np.testing.assert_allclose(loss(scaled, other, c), loss(params, one, c), rtol=1e-12)
    assert abs(loss(scaled, plain, 0.3) - loss(params, one, 0.3)) > 1e-2


def test_one_generator_gives_one_set_of_directions(rng):
    params = random_params(rng, (4, 5, 3))
    one, same, other = (rows(random_directions(params, 2, rng=np.random.default_rng(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_directions_that_depend_on_those_before_are_refused(rng):
    with pytest.raises(ValueError, match="direction 0 is zero, not finite, or depends"):
        random_directions(({"weight": np.zeros((3, 2)), "bias": np.ones(2)},), 1, rng=rng)
    with pytest.raises(ValueError, match="direction 0 is zero"):
        random_directions(({"weight": np.full((3, 2), np.nan)},), 1, rng=rng)
    with pytest.raises(ValueError, match="direction 1 is zero"):
        random_directions(({"weight": np.ones((1, 1))},), 2, rng=rng)
    with pytest.raises(ValueError, match="num = 0: at least one direction"):
        random_directions(({"weight": np.ones((1, 1))},), 0, rng=rng)
    with pytest.raises(
        ValueError, match="direction 2 is zero, not finite, or depends on those before it: 3 independent"
    ):
        orthogonalised({"a": np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.1, 0.7, 0.0]])})


def test_making_orthogonal_keeps_the_span_and_the_argument(rng):
    given = {"a": rng.standard_normal((3, 2, 2)), "b": rng.standard_normal((3, 3))}
    given = jax.tree.map(lambda leaf: np.stack([leaf[0], leaf[0] + 1e-6 * leaf[1], leaf[2]]), given)  # nearly dependent
    before = jax.tree.map(np.copy, given)
    found = rows(orthogonalised(given))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(rows(given) @ unit.T @ unit, rows(given), rtol=1e-12)
    np.testing.assert_array_equal(rows(given), rows(before))


def derivative(order, model, kind, params, data, l2):
    """jax.grad or jax.hessian of the objective on all data at once, as a function of theta, in float64."""
    layout = Layout.of(params)

    def whole(theta):
        x, y = jnp.asarray(data.x_train, float), jnp.asarray(data.y_train, None if data.num_classes else float)
        return objective.objective(model, kind, layout.unravel(theta), x, y, l2)

    compiled = jax.jit(order(whole))

    def at(theta):
        with jax.enable_x64(True):
            return np.asarray(compiled(theta))

    return at


PROBLEMS = [("cross_entropy", classification, "tanh"), ("squared_error", classification, "gelu")]


@pytest.mark.parametrize(("kind", "make", "activation"), [*PROBLEMS, ("squared_error", regression, "tanh")])
def test_eigenpairs_are_those_of_the_dense_hessian(rng, monkeypatch, kind, make, activation):
    data = make(rng)
    sizes = (3, 4, data.num_outputs)
    model, params = MLP(sizes, activation), random_params(rng, sizes)
    monkeypatch.setattr(objective, "CHUNK_VALUES", 4 * 7 * 15)  # several chunks, the last one padded
    matrix = derivative(jax.hessian, model, kind, params, data, 0.2)(np.float64(ravel(params)))
    values, vectors = np.linalg.eigh(matrix)
    last = len(values) - 1
    asked: list[tuple[Literal["largest", "smallest", "both"], list[int]]] = [
        ("largest", [last, last - 1, last - 2]),
        ("smallest", [1, 0]),
        ("both", [last, last - 1, 1, 0]),
    ]
    for which, at in asked:
        num = len(at)
        found = hessian_directions(model, kind, params, data, num, which=which, l2=0.2, rng=rng)
        np.testing.assert_allclose(found.values, values[at], rtol=1e-6)
        got = rows(found.directions)
        np.testing.assert_allclose(got @ got.T, np.eye(num), atol=1e-10)
        np.testing.assert_allclose(got, fix_signs(vectors[:, at].T), atol=1e-3)
        off = [np.linalg.norm(matrix @ v - value * v) for v, value in zip(got, found.values, strict=True)]
        np.testing.assert_allclose(found.residuals, off, atol=1e-10)
        assert np.all(found.residuals < 1e-4 * np.abs(values).max())
        assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == np.float64, found.directions))
    shifted = hessian_directions(model, kind, params, data, 3, l2=1.2, rng=rng)
    np.testing.assert_allclose(shifted.values, values[[last, last - 1, last - 2]] + 1, rtol=1e-6)
    assert not jax.config.read("jax_enable_x64")


def test_eigenpairs_of_a_bowl_are_those_of_its_matrix(rng):
    """loss = |R theta|^2, so H = 2 R^T R + l2, wherever it is taken."""
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    scales = np.array([5.0, 3, 2, *np.linspace(1, 0.5, 8), 0.1])
    model = Bowl(tuple(map(tuple, np.diag(scales) @ turn.T)))
    at = {"theta": rng.standard_normal(12)}
    found = hessian_directions(model, "squared_error", at, zero_targets(12), 4, which="both", l2=0.5, rng=rng)
    order = [0, 1, 10, 11]
    np.testing.assert_allclose(found.values, 2 * scales[order] ** 2 + 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.directions["theta"] @ turn[:, order]), np.eye(4), atol=1e-5)
    repeated = Bowl(tuple(map(tuple, np.diag([3.0, 3, 3, *np.ones(9)]))))
    values = hessian_directions(repeated, "squared_error", at, zero_targets(12), 4, rng=rng).values
    np.testing.assert_allclose(values, [18, 18, 18, 2], rtol=1e-6)


def test_impossible_eigenpairs_are_refused(rng, monkeypatch):
    model, data, at = Bowl(((1.0, 0.0), (0.0, 2.0))), zero_targets(2), {"theta": np.zeros(2)}
    for num in (0, 3):
        with pytest.raises(ValueError, match=f"num = {num}: between 1 and 2 eigenpairs"):
            hessian_directions(model, "squared_error", at, data, num, rng=rng)
    with pytest.raises(ValueError, match="num = 1: both ends take at least 2"):
        hessian_directions(model, "squared_error", at, data, 1, which="both", rng=rng)
    monkeypatch.setattr(lanczos, "DENSE", 0)
    monkeypatch.setattr(ways, "extremes", functools.partial(ways.extremes, max_steps=1))
    with pytest.raises(
        ValueError, match=r"1 of 1 eigenvalues did not converge \(.*\): ask for fewer, or raise tolerance"
    ):
        hessian_directions(model, "squared_error", {"theta": np.ones(2)}, data, 1, rng=rng)


def test_a_diverged_network_has_no_eigenpairs(rng):
    params = random_params(rng, (3, 4, 3))
    params[0]["weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match="params are not finite"):
        hessian_directions(MLP((3, 4, 3)), "cross_entropy", params, classification(rng), 2, rng=rng)
