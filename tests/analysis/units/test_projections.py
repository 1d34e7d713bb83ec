import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_built import NETWORKS, draw

from analysis.units import deconvolutions, gradient_images, greatest_inputs
from wspace import MLP, ConvNet
from wspace.tree import pick

LINEAR = {
    "mlp": (MLP((6, 5, 4, 3), "identity"), 6),
    "convnet": (ConvNet((6, 4, 1), (3, 2), (4,), 2, pooling="mean", activation="identity"), 24),
    "no pooling": (ConvNet((4, 3, 2), (2, 3), (), 2, pool_size=1, activation="identity"), 24),
}


def one(model, rng):
    return jax.tree.map(np.float64, pick(draw(model, rng, 1), 0))


def inputs(rng, model, params, layer, features, num=3):
    return rng.standard_normal((params[layer]["weight"].shape[-1], num, features))


def matrix(model, params, layer, features):
    """The exact linear map from inputs to everything that a layer of a linear network hands on, (feature, ..., unit)."""
    with jax.enable_x64(True):
        zero = model.activations(params, np.zeros((1, features)))[layer]
        return np.asarray(model.activations(params, np.eye(features))[layer] - zero)


@pytest.mark.parametrize(
    ("name", "layer"), [(n, layer) for n, (m, _) in LINEAR.items() for layer in range(m.num_layers)]
)
@pytest.mark.parametrize("project", [gradient_images, deconvolutions])
def test_projections_of_linear_networks_are_the_exact_map(rng, name, layer, project):
    model, features = LINEAR[name]
    params = one(model, rng)
    x = inputs(rng, model, params, layer, features)
    found, exact = project(model, params, x, layer=layer), matrix(model, params, layer, features)
    with jax.enable_x64(True):
        for unit, example in np.ndindex(*x.shape[:2]):
            h = np.asarray(model.activations(params, x[unit, example])[layer])[..., unit]
            place = np.unravel_index(np.argmax(h), h.shape)
            np.testing.assert_allclose(found[unit, example], exact[(slice(None), *place, unit)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "convnet", "mean pooling"])
def test_gradients_are_finite_differences(rng, name):
    model, features = NETWORKS[name]
    params = one(model, rng)
    for layer in range(model.num_layers):
        x = inputs(rng, model, params, layer, features, 1)
        found = gradient_images(model, params, x, layer=layer)
        with jax.enable_x64(True):
            for unit in range(len(x)):
                step = 1e-6 * np.concatenate([np.eye(features), -np.eye(features)])
                h = np.asarray(model.activations(params, x[unit, 0] + step)[layer])[..., unit]
                top = h.reshape(2, features, -1).max(axis=-1)
                np.testing.assert_allclose(found[unit, 0], (top[0] - top[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_a_deconvnet_of_one_block_puts_the_kernel_where_the_maximum_was(rng):
    model = ConvNet((8, 8, 1), (2,), (), 3)
    params = one(model, rng)
    x = inputs(rng, model, params, 0, 64, 4)
    found = deconvolutions(model, params, x, layer=0)
    with jax.enable_x64(True):
        for unit, example in np.ndindex(2, 4):
            z = np.asarray(model.receive(params, 0, x[unit, example]))[..., unit]
            row, column = np.unravel_index(np.argmax(z), z.shape)
            expected = np.zeros((10, 10))
            expected[row : row + 3, column : column + 3] = params[0]["weight"][..., 0, unit]
            np.testing.assert_allclose(found[unit, example].reshape(8, 8), expected[1:-1, 1:-1], atol=1e-12)


def test_a_deconvnet_rectifies_what_it_sends_and_not_by_what_was_active():
    """One input, two hidden units behind it: the sent signals are 1 and -1; only the positive one goes on, active or not."""
    params = (
        {"weight": np.array([[2.0, 3.0]]), "bias": np.array([-100.0, 100.0])},
        {"weight": np.array([[1.0], [-1.0]])},
    )
    params = (params[0], {**params[1], "bias": np.array([50.0])})
    model, x = MLP((1, 2, 1)), np.ones((1, 1, 1))
    np.testing.assert_allclose(deconvolutions(model, params, x, layer=1), [[[2.0]]])
    np.testing.assert_allclose(gradient_images(model, params, x, layer=1), [[[-3.0]]])


def test_switches_send_each_signal_back_to_its_own_maximum(rng):
    """With all weights positive nothing is rectified, so that the deconvnet is the gradient, through both maxima."""
    model = ConvNet((8, 8, 1), (2, 2), (), 1)
    params = jax.tree.map(np.abs, one(model, rng))
    x = np.abs(inputs(rng, model, params, 1, 64))
    for layer in range(3):
        some = x[: params[layer]["weight"].shape[-1]]
        np.testing.assert_allclose(
            deconvolutions(model, params, some, layer=layer),
            gradient_images(model, params, some, layer=layer),
            rtol=1e-9,
        )


def test_linear_units_answer_most_to_their_templates(rng):
    model = MLP((7, 5, 3), "identity")
    params = one(model, rng)
    for layer in range(2):
        found = greatest_inputs(model, params, 7, layer=layer, radius=2.5, rng=rng)
        template = matrix(model, params, layer, 7)
        expected = 2.5 * (template / np.linalg.norm(template, axis=0)).T
        for start in range(4):
            np.testing.assert_allclose(found.inputs[:, start], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.cosines, 1, rtol=1e-9)
        np.testing.assert_array_equal(found.best.shape, (len(expected), 7))


@pytest.mark.parametrize("name", ["mlp", "convnet", "mean pooling"])
def test_greatest_inputs_are_stationary_on_their_sphere_and_better_than_chance(rng, name):
    model, features = NETWORKS[name]
    params, layer = one(model, rng), 1
    found = greatest_inputs(model, params, features, layer=layer, radius=3.0, rng=rng, num_starts=3)
    np.testing.assert_allclose(np.linalg.norm(found.inputs, axis=-1), 3.0, rtol=1e-9)
    random = rng.standard_normal((2000, features))
    random *= 3.0 / np.linalg.norm(random, axis=1, keepdims=True)
    with jax.enable_x64(True):
        receive = lambda x: model.receive(params, layer, model.activations(params, x)[layer - 1])  # noqa: E731
        z, best = receive(random), receive(jnp.asarray(found.best))
        middle = tuple(size // 2 for size in z.shape[1:-1])
        values = np.array([best[(unit, *middle, unit)] for unit in range(len(found.best))])
        assert np.all(values >= np.asarray(z)[(slice(None), *middle)].max(axis=0))
    np.testing.assert_allclose(values, found.values.max(axis=1), rtol=1e-9)
    if name != "convnet":  # which is highest where its gradient jumps
        assert np.nanmedian(found.cosines) > 0.999


def test_what_cannot_be_projected_is_refused(rng):
    model = MLP((4, 3, 2), "tanh")
    params = one(model, rng)
    with pytest.raises(ValueError, match="the activation tanh asks for gradient_images"):
        deconvolutions(model, params, np.zeros((3, 1, 4)), layer=0)
    with pytest.raises(ValueError, match="2 sets of inputs for 3 units"):
        gradient_images(model, params, np.zeros((2, 1, 4)), layer=0)
    with pytest.raises(ValueError, match=r"layer = 2: one of 0 \.\. 1"):
        gradient_images(model, params, np.zeros((2, 1, 4)), layer=2)
    for radius, num_starts in ((0.0, 4), (1.0, 0)):
        with pytest.raises(ValueError, match="a positive length and at least one"):
            greatest_inputs(model, params, 4, layer=0, radius=radius, rng=rng, num_starts=num_starts)
