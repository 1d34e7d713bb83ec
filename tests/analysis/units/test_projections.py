import dataclasses

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


def whole(model, rng):
    """Params of small whole numbers: sums are exact, and ties are many."""
    like = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.integers(-2, 3, leaf.shape).astype(np.float64), like)


def digits(rng, num, shape):
    """Blank images with a square of noise, flat."""
    x = np.zeros((num, *shape))
    x[:, 2:5, 1:4] = rng.integers(0, 3, (num, 3, 3, shape[-1]))
    return x.reshape(num, -1)


def plain_deconvnet(model, params, x, layer, unit):
    """One input and one unit, by loops over places: what is sent back, and how many windows on the way tie."""
    blocks, pool, around = len(model.channels), model.pool_size, model.kernel // 2
    h, steps, ties = x.reshape(model.shape), [], 0
    for at in range(layer + 1):
        weight, bias, below = params[at]["weight"], params[at]["bias"], h
        if at >= blocks:
            z = bias + h.ravel() @ weight.reshape(h.size, -1)
            h, switches = (z if at == model.num_layers - 1 else np.maximum(z, 0)), None
        else:
            height, width, units = *h.shape[:2], len(bias)
            z, padded = np.zeros((height, width, units)), np.pad(h, [(around, around), (around, around), (0, 0)])
            for i, j, u in np.ndindex(z.shape):
                seen = padded[i : i + model.kernel, j : j + model.kernel]
                z[i, j, u] = bias[u] + np.sum(seen * weight[..., u])
            h, switches = np.zeros((height // pool, width // pool, units)), {}
            for i, j, u in np.ndindex(h.shape):
                best, found = -np.inf, 0
                for a, b in np.ndindex(pool, pool):
                    value = z[pool * i + a, pool * j + b, u]
                    if value > best:
                        best, found, switches[i, j, u] = value, 0, (pool * i + a, pool * j + b, u)
                    found += value == best
                h[i, j, u], ties = max(best, 0), ties + (found > 1)
        steps.append((weight, below.shape, z.shape, switches))
    signal = np.zeros(h.shape)
    signal[(*np.unravel_index(np.argmax(h[..., unit]), h.shape[:-1]), unit)] = 1
    for at in range(layer, -1, -1):
        weight, shape, received, switches = steps[at]
        if switches is None:
            rectified = signal if at == model.num_layers - 1 else np.maximum(signal, 0)
            signal = (weight.reshape(-1, len(rectified)) @ rectified).reshape(shape)
            continue
        unpooled = np.zeros(received)
        for place, switch in switches.items():
            unpooled[switch] = max(signal[place], 0)
        padded = np.zeros((shape[0] + 2 * around, shape[1] + 2 * around, shape[2]))
        for i, j, u in np.ndindex(unpooled.shape):
            padded[i : i + model.kernel, j : j + model.kernel] += unpooled[i, j, u] * weight[..., u]
        signal = padded[around : around + shape[0], around : around + shape[1]]
    return signal.ravel(), ties


@pytest.mark.parametrize("layer", range(4))
def test_a_deconvnet_takes_the_first_of_equal_values_as_plain_loops_do(rng, layer):
    """Windows tie on blank images; each has one switch all the same. Sides of 7 leave a row out."""
    model = ConvNet((7, 6, 2), (3, 2), (4,), 2)
    params = whole(model, rng)
    x = np.stack([digits(rng, 3, model.shape)] * params[layer]["weight"].shape[-1])
    found, ties = deconvolutions(model, params, x, layer=layer), 0
    for unit, example in np.ndindex(*x.shape[:2]):
        expected, tied = plain_deconvnet(model, params, x[unit, example], layer, unit)
        np.testing.assert_array_equal(found[unit, example], expected)
        ties += tied
    assert ties > 0
    assert np.any(found)


def test_a_blank_input_has_one_switch():
    """All places tie: the unit sends one kernel, at the first place, and not a share of it to every place of the window."""
    model = ConvNet((4, 4, 1), (1,), (), 1)
    kernel = np.arange(1.0, 10).reshape(3, 3, 1, 1)
    params = ({"weight": kernel, "bias": np.ones(1)}, {"weight": np.ones((4, 1, 1)), "bias": np.zeros(1)})
    found = deconvolutions(model, params, np.zeros((1, 1, 16)), layer=0).reshape(4, 4)
    expected = np.zeros((4, 4))
    expected[:2, :2] = kernel[1:, 1:, 0, 0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pool_size", [1, 2])
def test_a_unit_is_looked_at_in_the_first_of_equal_places(rng, pool_size):
    """The same patch in two places, which no window shares: gradient and deconvnet show the kernel at the first alone."""
    model = ConvNet((10, 10, 1), (1,), (), 1, pool_size=pool_size)
    kernel = rng.integers(1, 5, (3, 3)).astype(np.float64)
    positions = (10 // pool_size) ** 2
    params = (
        {"weight": kernel[..., None, None], "bias": np.zeros(1)},
        {"weight": np.ones((positions, 1, 1)), "bias": np.zeros(1)},
    )
    image, expected = np.zeros((10, 10)), np.zeros((10, 10))
    for row, column in ((6, 1), (1, 6)):
        image[row : row + 3, column : column + 3] = kernel
    expected[1:4, 6:9] = kernel
    for project in (gradient_images, deconvolutions):
        np.testing.assert_array_equal(
            project(model, params, image.reshape(1, 1, -1), layer=0).reshape(10, 10), expected
        )


def test_linear_units_answer_most_to_their_templates(rng):
    model = MLP((7, 5, 3), "identity")
    params = one(model, rng)
    for layer in range(2):
        found = greatest_inputs(model, params, 7, layer=layer, radius=2.5, rng=rng, num_starts=4)
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
    for radius, num_starts in ((0.0, 4), (np.inf, 4), (1.0, 0)):
        with pytest.raises(ValueError, match="a positive length and at least one"):
            greatest_inputs(model, params, 4, layer=0, radius=radius, rng=rng, num_starts=num_starts)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
@pytest.mark.parametrize("more", [1, -1])
def test_inputs_of_another_length_are_refused(rng, name, more):
    model, features = NETWORKS[name]
    params = one(model, rng)
    model = dataclasses.replace(model, activation="relu")
    message = f"inputs have {features + more} features, which the network {model.outline} with .* cannot take"
    x = np.zeros((params[0]["weight"].shape[-1], 1, features + more))
    for project in (gradient_images, deconvolutions):
        with pytest.raises(ValueError, match=message):
            project(model, params, x, layer=0)
    with pytest.raises(ValueError, match=message):
        greatest_inputs(model, params, features + more, layer=0, radius=1.0, rng=rng)
