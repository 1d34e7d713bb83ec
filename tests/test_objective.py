import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from wspace import MLP, ConvNet, objective, tree
from wspace.data import load
from wspace.spec import DataSpec


@dataclasses.dataclass  # with values to compare and no hash
class Own:
    function: Callable

    def apply(self, params, x):
        return self.function(params, x)


def population(sizes, num, seed=0):
    keys = jax.random.split(jax.random.key(seed), num)
    return jax.vmap(MLP(sizes).init)(keys)


def test_cross_entropy_equals_scikit_learn(rng):
    logits, y = rng.standard_normal((20, 4)), rng.integers(0, 4, 20)
    losses = objective.example_loss("cross_entropy", jnp.asarray(logits), jnp.asarray(y))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.mean(losses), sklearn.metrics.log_loss(y, probabilities), rtol=1e-5)


def test_squared_error_of_labels_is_that_of_one_hot_targets(rng):
    outputs, y = jnp.asarray(rng.standard_normal((9, 3))), rng.integers(0, 3, 9)
    got = objective.example_loss("squared_error", outputs, jnp.asarray(y))
    np.testing.assert_allclose(got, np.sum((np.asarray(outputs) - np.eye(3)[y]) ** 2, axis=1), rtol=1e-5)


def test_accuracy_counts_the_first_of_equal_outputs():
    outputs = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    np.testing.assert_array_equal(objective.accuracy(outputs, jnp.array([1, 1])), [0, 1])


def test_a_network_that_is_not_finite_has_no_accuracy():
    np.testing.assert_array_equal(
        objective.accuracy(jnp.array([[jnp.nan, 1.0], [1.0, 0.0]]), jnp.array([0, 0])), [np.nan, 1]
    )


def test_a_network_of_ones_own_needs_apply_alone():
    """Neither a known class nor hashable, with params in a structure of its own."""
    data, mlp = load(DataSpec(name="iris")), MLP((4, 6, 3))
    params = population(mlp.sizes, 2)
    own = Own(lambda p, x: mlp.apply((p["first"], p["second"]), x))
    with pytest.raises(TypeError):
        hash(own)
    got = objective.evaluate(own, "cross_entropy", {"first": params[0], "second": params[1]}, data, 0.1)
    expected = objective.evaluate(mlp, "cross_entropy", params, data, 0.1)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_matmuls_have_the_precision_that_is_asked_for(precision):
    data, seen = load(DataSpec(name="iris")), []

    def apply(params, x):
        seen.append(jax.config.values["jax_default_matmul_precision"])
        return x @ params

    objective.evaluate(Own(apply), "cross_entropy", jnp.ones((2, 4, 3)), data, precision=precision)
    assert set(seen[1:]) == {precision}  # the first call only asks for shapes


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
def test_gradient_equals_finite_differences_in_float64(x64, rng, kind, activation):
    model = MLP((4, 5, 3), activation)
    layout = tree.Layout.of(model.init(jax.random.key(0)))
    theta = rng.standard_normal(layout.size)
    x, y = jnp.asarray(rng.standard_normal((11, 4))), jnp.asarray(rng.integers(0, 3, 11))
    loss = jax.jit(lambda t: objective.objective(model, kind, layout.unravel(t), x, y, 0.3))
    gradient, h = jax.grad(loss)(jnp.asarray(theta)), 1e-6
    basis = np.eye(layout.size)
    differences = [(loss(theta + h * e) - loss(theta - h * e)) / (2 * h) for e in basis]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
def test_training_follows_the_gradient_of_the_objective(x64, rng, kind):
    model = MLP((4, 5, 3), "tanh")
    params = model.init(jax.random.key(0))
    x, y = jnp.asarray(rng.standard_normal((11, 4))), jnp.asarray(rng.integers(0, 3, 11))
    loss, gradient = objective.loss_and_gradient(model, kind, params, x, y, 0.3)
    np.testing.assert_allclose(loss, np.mean(objective.example_loss(kind, model.apply(params, x), y)), rtol=1e-12)
    expected = jax.grad(lambda p: objective.objective(model, kind, p, x, y, 0.3))(params)
    np.testing.assert_allclose(tree.ravel(gradient), tree.ravel(expected), rtol=1e-12, atol=1e-15)


def test_penalty_adds_half_l2_of_the_squared_norm_biases_included(x64, rng):
    params = ({"weight": jnp.asarray(rng.standard_normal((2, 3))), "bias": jnp.asarray(rng.standard_normal(3))},)
    squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(objective.penalty(params, 0.4), 0.2 * squares, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"), [("iris", "cross_entropy"), ("iris", "squared_error"), ("diabetes", "squared_error")]
)
@pytest.mark.parametrize("chunk_values", [10**9, 500, 1], ids=["whole", "chunked", "one by one"])
def test_metrics_are_exact_however_the_data_is_chunked(monkeypatch, name, kind, chunk_values):
    monkeypatch.setattr(objective, "CHUNK_VALUES", chunk_values)
    data = load(DataSpec(name=name))
    model = MLP((data.num_features, 6, data.num_outputs))
    params = population(model.sizes, 3)
    l2 = 0.01
    got = objective.evaluate(model, kind, params, data, l2)
    assert set(got) == set(objective.METRICS[data.task])
    for seed in range(3):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
        for part in ("train", "test"):
            x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
            outputs = np.asarray(model.apply(one, x))
            losses = objective.example_loss(kind, jnp.asarray(outputs), jnp.asarray(y))
            np.testing.assert_allclose(got[f"{part}_loss"][seed], np.mean(losses), rtol=2e-5)
            if data.task == "classification":
                score, name = np.mean(outputs.argmax(axis=1) == y), "accuracy"
            else:
                score, name = sklearn.metrics.r2_score(y, outputs), "r2"
            np.testing.assert_allclose(got[f"{part}_{name}"][seed], score, rtol=1e-4, atol=1e-6)
        value, gradient = jax.value_and_grad(
            lambda p: objective.objective(model, kind, p, jnp.asarray(data.x_train), jnp.asarray(data.y_train), l2)
        )(one)
        np.testing.assert_allclose(got["train_objective"][seed], value, rtol=2e-5)
        np.testing.assert_allclose(got["grad_norm"][seed], tree.norm(gradient), rtol=2e-4)


def test_chunks_bound_the_activations_held_at_once():
    model = MLP((784, 512, 512, 10))
    params = jax.eval_shape(model.init, jax.random.key(0))
    chunk = objective.chunk_examples(model, params, (8000, 784), 4)
    assert 1 <= chunk < 8000
    assert chunk * 4 * (784 + 512 + 512 + 10) <= objective.CHUNK_VALUES


def test_the_work_of_an_example_is_what_is_multiplied_or_moved():
    shapes = lambda model: jax.eval_shape(model.init, jax.random.key(0))  # noqa: E731
    mlp, convnet = MLP((64, 32, 32, 10)), ConvNet((8, 8, 1), (8, 16), (), 10)
    multiplied = 2 * (64 * 32 + 32 * 32 + 32 * 10)
    assert objective.work_per_example(mlp, shapes(mlp), (64,)) == pytest.approx(multiplied, rel=0.05)
    multiplied = 2 * (64 * 9 * 8 + 16 * 72 * 16 + 64 * 10)
    moved = objective.VALUE_FLOPS * convnet.num_values
    assert moved > 2 * multiplied
    assert objective.work_per_example(convnet, shapes(convnet), (64,)) == moved
