import jax
import numpy as np
import pytest
from small_networks import draw, outputs, pick, repeat, theta

from analysis.alignment import Repaired, average, repair
from analysis.connectivity import LOSSES, along, straight, straight_line
from wspace import MLP, ConvNet
from wspace.data import Dataset

PHI = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "identity": lambda z: z}


def statistics(params, x, phi):
    """Mean and standard deviation of every hidden layer's pre-activations, in NumPy."""
    h, found = x, []
    for layer in params[:-1]:
        z = h @ np.asarray(layer["weight"]) + np.asarray(layer["bias"])
        found.append((z.mean(axis=0), z.std(axis=0)))
        h = phi(z)
    return found


def repaired(model, merged, params, weights, x):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(lambda *args: repair(model, *args))(merged, params, weights, x))


def regression(rng, model):
    x, y = rng.standard_normal((40, model.sizes[0])), rng.standard_normal((40, model.sizes[-1]))
    x, y = x.astype(np.float32), y.astype(np.float32)
    return Dataset("planted", "regression", x[:25], y[:25], x[25:], y[25:], 0, x.shape[1:], (), ())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_average_is_numpys(rng, dtype):
    params = draw(MLP((3, 5, 2)), rng, (4,), dtype)
    weights = np.array([0.5, 0.25, 0.5, -0.25])
    for given, used in ((None, np.full(4, 0.25)), (weights, weights)):
        got = average(params, given)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))
        np.testing.assert_allclose(theta(got), np.average(theta(params, 1), axis=0, weights=used), rtol=1e-5, atol=1e-7)
    got = average(jax.tree.map(jax.numpy.asarray, params), weights)
    np.testing.assert_allclose(theta(got), weights @ theta(params, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(theta(average(params, np.array([0.0, 1, 0, 0]))), theta(pick(params, 1)))


@pytest.mark.parametrize(
    "weights", [[0.5, 0.5], [1.0, 1.0, 1.0], [0.5, 0.25, 0.2], [np.nan, 0.5, 0.5], [[0.2, 0.3, 0.5]]], ids=str
)
def test_weights_that_are_not_one_a_network_or_do_not_sum_to_1_are_refused(rng, weights):
    with pytest.raises((ValueError, TypeError), match=r"3 numbers that sum to 1|Type-check error"):
        average(draw(MLP((3, 5, 2)), rng, (3,)), np.array(weights))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_repair_gives_every_unit_the_mean_and_spread_of_its_parents(rng, activation):
    model, x = MLP((3, 7, 6, 5, 2), activation), rng.standard_normal((60, 3))
    params, weights = draw(model, rng, (3,)), np.array([0.2, 0.5, 0.3])
    merged = average(params, weights)
    got = repaired(model, merged, params, weights, x)
    parents = [statistics(pick(params, i), x, PHI[activation]) for i in range(3)]
    for layer, (mean, spread) in enumerate(statistics(got, x, PHI[activation])):
        for moment, value in enumerate((mean, spread)):
            expected = weights @ np.stack([parent[layer][moment] for parent in parents])
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-10)
    before = statistics(merged, x, PHI[activation])
    assert all(
        np.any(spread < 0.9 * s)
        for (_, spread), (_, s) in zip(before, statistics(got, x, PHI[activation]), strict=True)
    )
    np.testing.assert_array_equal(got[-1]["weight"], merged[-1]["weight"])  # outputs are not repaired
    np.testing.assert_array_equal(got[-1]["bias"], merged[-1]["bias"])
    for layer in range(3):  # a scale a unit
        ratio = got[layer]["weight"] / merged[layer]["weight"]
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-9)
        assert np.all(ratio > 0)


def test_channels_have_the_statistics_of_all_examples_and_positions(x64, rng):
    model, x = ConvNet((6, 6, 1), (3, 4), (5,), 2), rng.standard_normal((30, 36))
    params, weights = draw(model, rng, (3,)), np.array([0.2, 0.5, 0.3])
    got = repaired(model, average(params, weights), params, weights, x)
    received = lambda p: [model.receive(p, i, h) for i, h in enumerate((x, *model.activations(p, x)[:-2]))]  # noqa: E731
    parents = [received(pick(params, i)) for i in range(3)]
    for layer, z in enumerate(received(got)):
        assert z.shape[-1] == (3, 4, 5)[layer]
        for moment in (np.mean, np.std):
            of = lambda z: moment(np.asarray(z).reshape(-1, z.shape[-1]), axis=0)  # noqa: E731, B023
            expected = sum(w * of(own[layer]) for w, own in zip(weights, parents, strict=True))
            np.testing.assert_allclose(of(z), expected, rtol=1e-9, atol=1e-9)


def test_repair_changes_nothing_where_all_parents_are_the_same(rng):
    model, x = MLP((3, 7, 6, 2)), rng.standard_normal((60, 3))
    params = draw(model, rng)
    got = repaired(model, params, repeat(params, 3), np.full(3, 1 / 3), x)
    np.testing.assert_allclose(theta(got), theta(params), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("parent_alive", [False, True])
def test_units_that_never_vary_keep_their_scale(rng, parent_alive):
    model, x = MLP((3, 5, 4, 2)), rng.standard_normal((60, 3))
    params = draw(model, rng, (2,))
    params[0]["weight"][..., 2] = np.array([[1.0], [-1.0]]) * parent_alive  # they cancel
    merged = average(params)
    got = repaired(model, merged, params, np.full(2, 0.5), x)
    assert np.all(np.isfinite(theta(got)))
    np.testing.assert_array_equal(got[0]["weight"][:, 2], 0)
    means = [(x @ pick(params, i)[0]["weight"] + pick(params, i)[0]["bias"]).mean(axis=0)[2] for i in range(2)]
    np.testing.assert_allclose(got[0]["bias"][2], np.mean(means), rtol=1e-10)
    params[0]["bias"][...], params[0]["weight"][...] = -1.0, 0.0  # a silent layer
    got = repaired(model, average(params), params, np.full(2, 0.5), x)
    assert np.all(np.isfinite(theta(got)))


def test_repair_keeps_float32_and_works_under_jit(rng):
    model, x = MLP((3, 5, 4, 2)), rng.standard_normal((60, 3)).astype(np.float32)
    params, weights = draw(model, rng, (2,), np.float32), np.array([0.5, 0.5], np.float32)
    merged = average(params)
    plain = repair(model, merged, params, weights, x)
    jitted = jax.jit(lambda *args: repair(model, *args))(merged, params, weights, x)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((plain, jitted)))
    np.testing.assert_allclose(theta(jitted), theta(plain), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theta(plain), theta(repaired(model, merged, params, weights, x)), rtol=1e-3, atol=1e-4)


def test_the_repaired_line_begins_and_ends_with_the_networks_themselves(x64, rng):
    model, x = MLP((3, 5, 4, 2), "tanh"), jax.numpy.asarray(rng.standard_normal((60, 3)))
    a, b = draw(model, rng), draw(model, rng)
    for alpha, end in ((0.0, a), (1.0, b)):
        got = Repaired(model)((a, b), jax.numpy.asarray(alpha), x)
        np.testing.assert_allclose(theta(got), theta(end), rtol=1e-10, atol=1e-12)
    middle = Repaired(model)((a, b), jax.numpy.asarray(0.25), x)
    both = jax.tree.map(lambda u, v: np.stack([u, v]), a, b)
    weights = np.array([0.75, 0.25])
    expected = repair(model, average(both, weights), both, weights, x)
    np.testing.assert_allclose(theta(middle), theta(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_line_of_repaired_networks_has_the_ends_of_the_straight_one_and_their_losses(rng):
    model = MLP((3, 6, 5, 2), "tanh")
    data, a, b = regression(rng, model), draw(model, rng, dtype=np.float32), draw(model, rng, dtype=np.float32)
    unrepaired, line = (
        along(model, "squared_error", (a, b), data, l2=0.1, num_alphas=5, path=path)
        for path in (straight, Repaired(model))
    )
    for name in LOSSES:
        np.testing.assert_allclose(line.values[name][[0, -1]], unrepaired.values[name][[0, -1]], rtol=1e-9)
        assert not np.allclose(line.values[name][1:-1], unrepaired.values[name][1:-1], rtol=1e-3)
    assert line.length == unrepaired.length
    wide = jax.tree.map(lambda u, v: np.stack([u, v]).astype(np.float64), a, b)
    for alpha, train, test in zip(line.alphas, line.values["train_loss"], line.values["test_loss"], strict=True):
        weights = np.array([1 - alpha, alpha])
        params = repaired(model, average(wide, weights), wide, weights, data.x_train.astype(np.float64))
        for value, x, y in ((train, data.x_train, data.y_train), (test, data.x_test, data.y_test)):
            np.testing.assert_allclose(value, np.mean(np.sum((outputs(model, params, x) - y) ** 2, axis=1)), rtol=1e-9)


def test_a_straight_line_between_is_the_straight_line(rng):
    model = MLP((3, 6, 2))
    data, a, b = regression(rng, model), draw(model, rng, dtype=np.float32), draw(model, rng, dtype=np.float32)
    by_hand = lambda points, alpha, x: jax.tree.map(lambda u, v: (1 - alpha) * u + alpha * v, *points)  # noqa: E731
    default = straight_line(model, "squared_error", a, b, data, num_alphas=5)
    line = along(model, "squared_error", (a, b), data, num_alphas=5, path=by_hand)
    for name in LOSSES:
        np.testing.assert_allclose(line.values[name], default.values[name], rtol=1e-13)
        np.testing.assert_allclose(line.barriers[name].chord, default.barriers[name].chord, rtol=1e-10)


def test_a_model_without_biases_cannot_be_repaired(rng):
    model = MLP((3, 5, 2), bias=False)
    params = draw(model, rng, (2,))
    with pytest.raises(ValueError, match="takes a network of layers with biases; got MLP"):
        repair(model, average(params), params, np.full(2, 0.5), rng.standard_normal((9, 3)))
