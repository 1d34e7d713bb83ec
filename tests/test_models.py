import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from wspace import MLP, ConvNet, objective, symmetry
from wspace.errors import SpecError
from wspace.models import Layered, Model, Split, from_spec, patches, windows
from wspace.spec import ModelSpec

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


SMALL = ConvNet((6, 5, 2), (3, 4), (7,), 2)
CONVNETS = [
    SMALL,
    ConvNet((6, 5, 2), (3, 4), (), 2, pooling="mean", activation="gelu"),
    ConvNet((5, 4, 1), (3,), (4, 3), 2, kernel=4, pool_size=3, activation="tanh", bias=False),
    ConvNet((3, 3, 1), (2, 3), (), 1, kernel=5, pool_size=1, activation="tanh"),
    ConvNet((4, 4, 3), (2,), (3,), 2, kernel=1, pooling="mean", activation="identity"),
]
names = lambda model: f"{model.outline}, {model.activation}"  # noqa: E731


def random_params(model, rng):
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), model.init(jax.random.key(0)))


def plain_block(model, layer, h):
    """One image (height, width, sender) through a block, by SciPy's correlation and loops over windows."""
    height, width = h.shape[:2]
    before = (model.kernel - 1) // 2
    padded = np.pad(h, [(before, model.kernel - 1 - before)] * 2 + [(0, 0)])
    z = np.zeros((height, width, layer["weight"].shape[-1]))
    for unit in range(z.shape[-1]):
        for sender in range(h.shape[-1]):
            z[..., unit] += scipy.signal.correlate2d(padded[..., sender], layer["weight"][..., sender, unit], "valid")
        z[..., unit] += layer["bias"][unit] if model.bias else 0
    h, pool = REFERENCE[model.activation](z), model.pool_size
    return np.array(
        [
            [
                {"max": np.max, "mean": np.mean}[model.pooling](
                    h[i * pool : (i + 1) * pool, j * pool : (j + 1) * pool], axis=(0, 1)
                )
                for j in range(width // pool)
            ]
            for i in range(height // pool)
        ]
    )


@pytest.mark.parametrize("model", CONVNETS, ids=names)
def test_convnets_equal_scipys_correlation(x64, rng, model):
    params, x = random_params(model, rng), rng.standard_normal((3, np.prod(model.shape)))
    layers = model.activations(params, x)
    for example, inputs in enumerate(x):
        h = inputs.reshape(model.shape)
        for layer, got in zip(params, layers, strict=True):
            if layer["weight"].ndim == 4:
                h = plain_block(model, layer, h)
            else:
                h = h.ravel() @ layer["weight"].reshape(h.size, -1) + (layer["bias"] if model.bias else 0)
                h = REFERENCE[model.activation](h) if layer is not params[-1] else h
            np.testing.assert_allclose(got[example], h, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(model.apply(params, x), layers[-1])
    assert layers[-1].shape == (3, model.num_outputs)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_patches_times_kernels_are_jaxs_convolution(x64, rng, kernel):
    h, weight = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((kernel, kernel, 3, 4))
    before = (kernel - 1) // 2
    around = [(before, kernel - 1 - before)] * 2
    expected = jax.lax.conv_general_dilated(h, weight, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(
        patches(jnp.asarray(h), kernel) @ weight.reshape(-1, 4), expected, rtol=1e-12, atol=1e-13
    )


def test_windows_hold_every_position_once():
    h = jnp.arange(5.0 * 7 * 2).reshape(1, 5, 7, 2)
    found = np.asarray(windows(h, 2))
    assert found.shape == (1, 2, 3, 4, 2)
    np.testing.assert_array_equal(found[0, 1, 2, :, 0] / 2, [2 * 7 + 4, 2 * 7 + 5, 3 * 7 + 4, 3 * 7 + 5])
    assert len(np.unique(found)) == found.size


@pytest.mark.parametrize("model", [*CONVNETS, MLP((4, 3, 2), "tanh")], ids=names)
def test_networks_are_told_by_their_layers(rng, model):
    features = np.prod(model.shape) if isinstance(model, ConvNet) else 4
    params, h = random_params(model, rng), rng.standard_normal((2, 3, features)).astype(np.float32)
    x = h
    for layer, expected in enumerate(model.activations(params, x)):
        z = model.receive(params, layer, h)
        np.testing.assert_array_equal(model.rest(params, z, layer), model.apply(params, x))
        assert model.incoming(layer, h).shape[-1] == np.prod(params[layer]["weight"].shape[:-1])
        assert z.shape[-1] == params[layer]["weight"].shape[-1]
        h = model.hand_on(layer, z)
        np.testing.assert_array_equal(h, expected)
    assert len(model.activations(params, x)) == model.num_layers
    np.testing.assert_array_equal(model.rest(params, model.first(params, x)), h)
    assert isinstance(model, Layered)
    assert isinstance(model, Split)


@pytest.mark.parametrize("model", CONVNETS, ids=names)
def test_the_declared_symmetry_of_convnets_is_all_there_is(rng, model):
    params = model.init(jax.random.key(0))
    x = rng.standard_normal((8, np.prod(model.shape)))
    symmetry.check(model, model.symmetry, params, x)
    assert [units.num for units in model.symmetry.layers] == [*model.channels, *model.hidden]
    for layer, units in enumerate(model.symmetry.layers):
        for kind in ("sign", "scale"):
            if not getattr(units, kind):
                more = list(model.symmetry.layers)
                more[layer] = dataclasses.replace(units, **{kind: True})
                with pytest.raises(symmetry.SymmetryError, match=kind):
                    symmetry.check(model, symmetry.Symmetry(tuple(more)), params, x)


def test_a_linear_convnet_is_one_matrix(x64, rng):
    model = ConvNet((6, 4, 1), (3, 2), (5,), 2, pooling="mean", activation="identity", bias=False)
    params, x = random_params(model, rng), rng.standard_normal((5, 24))
    np.testing.assert_allclose(model.apply(params, x), x @ model.apply(params, np.eye(24)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("init_kind", "variances"),
    [("he", (2 / 27, 2 / 320)), ("glorot", (2 / 207, 2 / 370)), ("lecun", (1 / 27, 1 / 320))],
)
def test_init_of_convnets_has_the_stated_variance(init_kind, variances):
    model = ConvNet((8, 8, 3), (20,), (), 50, init_kind=init_kind)
    for layer, variance in zip(model.init(jax.random.key(1), 0.5), variances, strict=True):
        weight = np.asarray(layer["weight"], np.float64)
        assert abs(weight.var() / (0.25 * variance) - 1) < 5 * np.sqrt(2 / weight.size)
        assert not np.any(layer["bias"])


def test_shapes_of_params_are_the_documented_ones():
    shapes = jax.tree.map(np.shape, SMALL.init(jax.random.key(0)))
    weights = [layer["weight"] for layer in shapes]
    assert weights == [(3, 3, 2, 3), (3, 3, 3, 4), (1, 4, 7), (7, 2)]
    assert SMALL.outline == "6 × 5 × 2 → 3 of 3 × 3, max of 2 × 2 → 4 of 3 × 3, max of 2 × 2 → 7 → 2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": ()}, "a block"),
        ({"channels": (2, 2, 2)}, "leaves nothing of inputs of 6 x 5"),
        ({"channels": (2, 0)}, "sizes of 1 or more"),
        ({"kernel": 0}, "sizes of 1 or more"),
    ],
)
def test_impossible_convnets_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **given)


def test_models_are_made_of_specs_and_shapes_of_inputs():
    convnet = ModelSpec(kind="convnet", channels=(3, 4), hidden=(7,))
    assert from_spec(convnet, (6, 5, 2), 2) == SMALL
    assert from_spec(convnet, (6, 5), 2) == dataclasses.replace(SMALL, shape=(6, 5, 1))
    assert from_spec(ModelSpec(), (6, 5, 2), 2) == MLP((60, 32, 32, 2))
    with pytest.raises(SpecError, match=r"those of the data have the shape \(60,\): use model.kind = 'mlp'"):
        from_spec(convnet, (60,), 2)
    with pytest.raises(SpecError, match="leaves nothing of inputs of 2 x 2"):
        from_spec(convnet, (2, 2), 2)


def test_values_of_an_example_are_those_of_patches_as_well(rng):
    model, x = SMALL, rng.standard_normal((1, 60)).astype(np.float32)
    params, total, h = random_params(model, rng), x.size, x
    for layer in range(model.num_layers):
        z = model.receive(params, layer, h)
        if layer < len(model.channels):
            senders = model.shape if layer == 0 else h.shape[1:]
            total += patches(jnp.asarray(h).reshape(1, *senders), model.kernel).size + z.size
        h = model.hand_on(layer, z)
        total += h.size
    assert model.num_values == total
    assert objective.values_per_example(model, params, (60,)) == total
    assert objective.values_per_example(MLP((4, 3, 2)), MLP((4, 3, 2)).init(jax.random.key(0)), (4,)) == 9
