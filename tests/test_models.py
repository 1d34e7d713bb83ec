import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from wspace import MLP
from wspace.models import Model, Split

REFERENCE = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "identity": lambda z: z,
}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=5),
    st.sampled_from(sorted(REFERENCE)),
    st.booleans(),
    st.integers(0, 9),
)
def test_activations_equal_plain_numpy_in_float64(sizes, activation, bias, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        model = MLP(tuple(sizes), activation, bias)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), model.init(jax.random.key(0)))
        x = rng.standard_normal((3, sizes[0]))
        layers = model.activations(params, jnp.asarray(x))
        outputs = model.apply(params, jnp.asarray(x))
    expected = x
    for i, (layer, got) in enumerate(zip(params, layers, strict=True)):
        expected = expected @ np.asarray(layer["weight"]) + (np.asarray(layer["bias"]) if bias else 0)
        if i < len(params) - 1:
            expected = REFERENCE[activation](expected)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(outputs, layers[-1])


def test_gelu_is_close_to_its_definition_by_the_normal_distribution():
    z = np.linspace(-4, 4, 81)
    np.testing.assert_allclose(REFERENCE["gelu"](z), z * scipy.special.ndtr(z), atol=1e-3)


@pytest.mark.parametrize(("init_kind", "variance"), [("he", 2 / 300), ("glorot", 2 / (300 + 200)), ("lecun", 1 / 300)])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_init_has_the_stated_variance(init_kind, variance, scale):
    layer = MLP((300, 200, 5), init_kind=init_kind).init(jax.random.key(1), scale)[0]
    weight = np.asarray(layer["weight"], np.float64)
    num = weight.size  # the variance of n Gaussians has relative standard deviation sqrt(2/n)
    assert abs(weight.var() / (scale**2 * variance) - 1) < 5 * np.sqrt(2 / num)
    assert abs(weight.mean()) < 5 * np.sqrt(scale**2 * variance / num)
    assert not np.any(layer["bias"])


def test_layers_are_drawn_independently_and_keys_decide():
    model = MLP((20, 20, 20))
    a, b = model.init(jax.random.key(0)), model.init(jax.random.key(1))
    weights = [np.ravel(layer["weight"]) for params in (a, b) for layer in params]
    correlations = np.corrcoef(weights) - np.eye(4)
    assert np.abs(correlations).max() < 5 / np.sqrt(400)
    np.testing.assert_array_equal(model.init(jax.random.key(0))[1]["weight"], a[1]["weight"])


def test_deep_linear_network_is_one_matrix(x64, rng):
    model = MLP((6, 5, 4, 3), "identity", bias=False)
    params = model.init(jax.random.key(0))
    x = rng.standard_normal((7, 6))
    product = np.linalg.multi_dot([np.asarray(layer["weight"]) for layer in params])
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x)), x @ product, rtol=1e-12)


def test_networks_without_bias_have_no_bias_leaves():
    assert all(set(layer) == {"weight"} for layer in MLP((3, 4, 2), bias=False).init(jax.random.key(0)))


@pytest.mark.parametrize("sizes", [(3,), (3, 0, 2)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="at least inputs and outputs"):
        MLP(sizes)


def test_unknown_activation_is_refused():
    with pytest.raises((ValueError, TypeError), match="swish"):  # TypeError where signatures are checked
        MLP((3, 2), activation="swish")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("activation", sorted(REFERENCE))
@pytest.mark.parametrize(("sizes", "bias"), [((3, 2), True), ((3, 5, 2), False), ((3, 5, 1, 4), True)])
def test_the_first_layer_and_the_rest_are_the_whole(rng, sizes, activation, bias):
    model = MLP(sizes, activation, bias)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), model.init(jax.random.key(0))
    )
    x = rng.standard_normal((2, 3, sizes[0])).astype(np.float32)
    received = model.first(params, x)
    assert received.shape == (2, 3, sizes[1])
    np.testing.assert_array_equal(model.rest(params, received), model.apply(params, x))
    np.testing.assert_array_equal(model.rest(params, np.asarray(received)), model.apply(params, x))
    lost = jax.tree.map(lambda leaf: leaf * np.nan, params)
    np.testing.assert_array_equal(
        model.first((params[0], *lost[1:]), x), received
    )  # each leaves the other's params alone
    np.testing.assert_array_equal(model.rest((lost[0], *params[1:]), received), model.apply(params, x))


@pytest.mark.parametrize("bias", [True, False])
def test_the_first_layer_is_linear_in_the_params(x64, rng, bias):
    model, x = MLP((4, 5, 2), "tanh", bias), jnp.asarray(rng.standard_normal((6, 4)))
    draw = lambda: jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), model.init(jax.random.key(0)))  # noqa: E731
    a, b = draw(), draw()
    mixed = jax.tree.map(lambda u, v: 2.5 * u - 0.75 * v, a, b)
    expected = 2.5 * model.first(a, x) - 0.75 * model.first(b, x)
    np.testing.assert_allclose(model.first(mixed, x), expected, rtol=1e-12, atol=1e-13)


def test_what_has_a_first_layer_and_a_rest_is_split():
    class Foreign:
        def apply(self, params, x):
            return x

    assert isinstance(MLP((3, 4, 2)), Split)
    assert isinstance(Foreign(), Model)
    assert not isinstance(Foreign(), Split)
