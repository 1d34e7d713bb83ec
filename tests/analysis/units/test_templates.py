import jax
import numpy as np
import pytest
import scipy.signal
from hand_built import NETWORKS, draw

from analysis.similarity import representations
from analysis.units import matches, templates, top_inputs
from analysis.units.templates import check_features
from wspace import MLP, ConvNet
from wspace.tree import pick


def test_templates_have_the_shape_of_what_they_multiply(rng):
    model = MLP((12, 5, 2))
    params = draw(model, rng)
    found = templates(params, (4, 3))
    assert found.shape == (2, 5, 4, 3)
    np.testing.assert_array_equal(found[1, 2].ravel(), params[0]["weight"][1, :, 2])
    image, unit = rng.standard_normal((4, 3)), 3
    received = model.receive(pick(params, 0), 0, image.ravel()[None])
    np.testing.assert_allclose(
        np.sum(found[0, unit] * image) + params[0]["bias"][0, unit], received[0, unit], rtol=1e-5
    )
    assert templates(params, (12,)).shape == (2, 5, 12)
    kernels = templates(draw(ConvNet((6, 6, 2), (3,), (), 2), rng), (6, 6, 2))
    assert kernels.shape == (2, 3, 3, 3, 2)
    with pytest.raises(ValueError, match=r"12 weights each: .* not \(5, 2\)"):
        templates(params, (5, 2))


@pytest.mark.parametrize("shape", [(6, 6, 1), (6, 6), (72,), (2, 6, 6, 2)])
def test_kernels_are_for_inputs_of_their_channels(rng, shape):
    params = draw(ConvNet((6, 6, 2), (3,), (), 2), rng)
    with pytest.raises(ValueError, match=r"inputs of \(height, width, 2\), not .* number of channels"):
        templates(params, shape)
    single = draw(ConvNet((6, 6, 1), (3,), (), 2, kernel=7), rng)  # larger than the input, as a ConvNet allows
    assert templates(single, (6, 6)).shape == templates(single, (6, 6, 1)).shape == (2, 3, 7, 7, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_dot_products_and_cosines_are_those_of_every_patch(x64, rng, name):
    model, features = NETWORKS[name]
    params, x = pick(draw(model, rng), 0), rng.standard_normal((5, features)).astype(np.float32)
    found = matches(model, params, x)
    received = np.asarray(model.receive(jax.tree.map(np.float64, params), 0, np.float64(x)))
    bias = params[0].get("bias", np.zeros(received.shape[-1]))
    np.testing.assert_allclose(found.dot, (received - bias).reshape(-1, received.shape[-1]).T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        found.dot, found.cosine * np.outer(found.template_norm, found.input_norm), rtol=1e-9, atol=1e-12
    )
    assert np.abs(found.cosine).max() <= 1
    if name == "convnet":
        centre = x.reshape(5, *model.shape)[2, 1:4, 0:3]  # what the kernel sees at row 2, column 1
        kernel = params[0]["weight"][..., 1]
        np.testing.assert_allclose(found.dot[1, 2 * 20 + 2 * 4 + 1], np.sum(centre * kernel), rtol=1e-5)


def test_a_match_is_relative_to_the_norm():
    """The planted template finds itself by its cosine; by the dot product a longer input that resembles it less wins."""
    template = np.array([1.0, 0, 0])
    x = np.array([[1, 0, 0], [3, 4, 0], [0, 0, 2], [-1, 0, 0]], np.float32)
    params = ({"weight": template[:, None], "bias": np.zeros(1)}, {"weight": np.ones((1, 1)), "bias": np.zeros(1)})
    found = matches(MLP((3, 1, 1)), params, x)
    np.testing.assert_allclose(found.dot, [[1, 3, 0, -1]])
    np.testing.assert_allclose(found.cosine, [[1, 0.6, 0, -1]])
    assert found.same_top == 0
    assert found.length_of_top(found.dot) == pytest.approx((3 + 0.5) / 4)
    assert found.length_of_top(found.cosine) == pytest.approx((0 + 0.5 * 2) / 4)


def test_units_without_a_best_input_are_no_agreement():
    """Two units have a best input, one of them by dot product and by cosine; the third is 0, the fourth meets no input."""
    weight = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # (feature, unit)
    x = np.array([[1, 0, 0, 0], [2, 0, 3, 0], [0, 0, 0, 0], [0, 5, 0, 0]], np.float32)
    model, head = MLP((4, 4, 1), bias=False), {"weight": np.ones((4, 1))}
    found = matches(model, ({"weight": weight}, head), x)
    np.testing.assert_array_equal(np.argmax(found.dot, axis=1), [1, 1, 0, 0])
    np.testing.assert_array_equal(np.argmax(found.cosine, axis=1), [0, 1, 0, 0])
    assert found.same_top == 0.5
    for template, inputs in ((0 * weight, x), (weight, 0 * x), (weight, x[3:])):
        assert np.isnan(matches(model, ({"weight": template}, head), inputs).same_top)


def test_inputs_of_one_length_are_ranked_alike_by_dot_product_and_cosine(rng):
    x = rng.standard_normal((40, 6))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    found = matches(MLP((6, 5, 2), "tanh"), pick(draw(MLP((6, 5, 2), "tanh"), rng), 0), x)
    np.testing.assert_allclose(found.told_by_dot, 1)
    np.testing.assert_allclose(found.told_by_cosine, 1, atol=1e-3)
    assert found.same_top == 1
    np.testing.assert_allclose(found.share_of_norm, 0, atol=1e-4)


def test_inputs_of_one_direction_differ_by_their_length_alone(rng):
    x = (rng.standard_normal(6) * np.geomspace(0.1, 10, 30)[:, None]).astype(np.float32)
    found = matches(MLP((6, 4, 2), "tanh"), pick(draw(MLP((6, 4, 2), "tanh"), rng), 0), x)
    shares = found.share_of_norm
    assert np.isfinite(shares).any()
    np.testing.assert_allclose(shares[np.isfinite(shares)], 1, rtol=1e-4)  # the others see no input with s . w > 0


def test_orthogonal_inputs_are_their_own_templates(rng):
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    params = ({"weight": basis.T[:, :4] * np.array([1, 2, 3, 4]), "bias": np.zeros(4)}, {"weight": np.ones((4, 1))})
    found = matches(MLP((6, 4, 1), bias=False), ({"weight": params[0]["weight"]}, params[1]), basis)
    np.testing.assert_allclose(found.cosine, np.eye(6)[:4], atol=1e-12)
    np.testing.assert_allclose(found.dot, np.diag([1, 2, 3, 4, 0, 0])[:4], atol=1e-12)


def test_the_strongest_inputs_of_units_of_any_layer(rng):
    model = ConvNet((6, 4, 1), (3, 2), (4,), 2)
    params, x = draw(model, rng), rng.standard_normal((9, 24)).astype(np.float32)
    for handed_on in representations(model, params, x):
        found = top_inputs(handed_on, 4)
        dense = handed_on.ndim == 3
        assert found.positions.shape == (*found.examples.shape, 0 if dense else 2)
        flat = handed_on.reshape(2, 9, -1, handed_on.shape[-1]).max(axis=2)
        for seed, unit in np.ndindex(2, handed_on.shape[-1]):
            expected = np.sort(flat[seed, :, unit])[::-1][:4]
            np.testing.assert_array_equal(found.values[seed, unit], expected)
            assert len(set(found.examples[seed, unit])) == 4
            for rank, example in enumerate(found.examples[seed, unit]):
                place = (seed, example, *found.positions[seed, unit, rank], unit)
                assert handed_on[place] == expected[rank]


def test_a_planted_patch_is_found_where_it_was_put(rng):
    model, patch = ConvNet((8, 8, 1), (1,), (), 1, pool_size=1), rng.standard_normal((3, 3))
    kernel = patch / np.linalg.norm(patch)
    images = 0.01 * rng.standard_normal((5, 8, 8))
    images[3, 4:7, 1:4] += patch
    head = {"weight": np.zeros((1, 64, 1, 1)), "bias": np.zeros((1, 1))}
    params = [{"weight": kernel[None, :, :, None, None], "bias": np.zeros((1, 1))}, head]
    h = representations(model, tuple(params), images.reshape(5, 64).astype(np.float32))[0]
    found = top_inputs(h, 1)
    assert (found.examples.item(), found.positions.tolist()) == (3, [[[[5, 2]]]])  # its centre
    response = scipy.signal.correlate2d(images[3], kernel, "valid").max()
    assert found.values.item() == pytest.approx(response, rel=1e-5)


def test_what_is_not_there_is_refused(rng):
    model = MLP((6, 5, 2))
    params = draw(model, rng)
    with pytest.raises(ValueError, match=r"shape \(0, 6\): .* one example or more"):
        matches(model, pick(params, 0), np.zeros((0, 6)))
    h = representations(model, params, rng.standard_normal((3, 6)).astype(np.float32))[0]
    for num in (0, 4):
        with pytest.raises(ValueError, match=rf"num = {num}: 1 \.\. 3 examples"):
            top_inputs(h, num)
    for bad in (np.nan, np.inf, -np.inf):
        broken = np.array(h)
        broken[1, 2, 0] = bad
        with pytest.raises(ValueError, match=r"networks at positions \[1\] hand on is not finite"):
            top_inputs(broken, 2)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
@pytest.mark.parametrize("more", [1, -1])
def test_inputs_of_another_length_are_refused(rng, name, more):
    model, features = NETWORKS[name]
    params = pick(draw(model, rng), 0)
    with pytest.raises(ValueError, match=f"inputs have {features + more} features, which the network {model.outline} "):
        matches(model, params, np.zeros((3, features + more)))


def test_inputs_that_fit_are_not_refused(rng):
    for model, features in NETWORKS.values():
        assert check_features(model, pick(draw(model, rng), 0), features) is None
