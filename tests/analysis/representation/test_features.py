import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.representation import class_distances, drawings, features, over_seeds, restart_map, separability
from wspace.models import MLP, ConvNet
from wspace.tree import pick


def stacked(model, num=3):
    return jax.vmap(model.init)(jax.random.split(jax.random.key(0), num))


def test_features_are_the_inputs_and_what_each_layer_hands_on(rng):
    model, x = MLP((4, 6, 5, 3)), rng.standard_normal((7, 4)).astype(np.float32)
    params = stacked(model)
    got = features(model, params, x)
    assert [layer.shape for layer in got] == [(3, 7, 4), (3, 7, 6), (3, 7, 5), (3, 7, 3)]
    for seed in range(3):
        np.testing.assert_array_equal(got[0][seed], x)
        for layer, own in zip(got[1:], model.activations(pick(params, seed), jnp.asarray(x)), strict=True):
            np.testing.assert_allclose(layer[seed], own, rtol=1e-5, atol=1e-6)


def test_the_inputs_are_held_once_however_many_networks_there_are(rng):
    model = MLP((4, 3))
    inputs = features(model, stacked(model), rng.standard_normal((7, 4)).astype(np.float32))[0]
    assert inputs.strides[0] == 0
    assert not inputs.flags.writeable


def test_images_are_flattened_and_all_analyses_take_them(rng):
    model = ConvNet((6, 6, 1), (3,), (5,), 2)
    x = rng.standard_normal((40, 36)).astype(np.float32)
    params, y = stacked(model), np.arange(40) % 2
    got = features(model, params, x)
    assert [layer.shape[2] for layer in got] == [36, 27, 5, 2]
    block = np.asarray(model.activations(pick(params, 1), jnp.asarray(x))[0])
    np.testing.assert_allclose(got[1][1], block.reshape(40, 27), rtol=1e-5, atol=1e-6)
    assert class_distances(got, y).share.shape == (4, 3)
    assert separability(got, y, got, y, "classification").converged.all()
    assert drawings([layer[0] for layer in got], perplexity=5.0, rng=rng).explained.shape == (4, 2)
    assert restart_map(got[1]).distance.shape == (3, 3)


def test_examples_that_are_missing_and_numbers_that_are_not_are_refused(rng):
    model = MLP((4, 3, 2))
    params = jax.tree.map(np.array, stacked(model))
    with pytest.raises(ValueError, match="there are no examples"):
        features(model, params, np.zeros((0, 4), np.float32))
    params[1]["bias"][2, 0] = np.nan
    with pytest.raises(ValueError, match=r"layer 2 of the networks at positions \[2\] are not finite"):
        features(model, params, rng.standard_normal((5, 4)).astype(np.float32))


def test_medians_and_changes_are_those_of_seeds(rng):
    values = np.array([[1.0, 2, 3, 4, 5], [11.0, 2, 23, 4, 35]])
    got = over_seeds(values, rng=rng, unit="share")
    assert [(one.value, one.n, one.unit) for one in got.each if one] == [(3, 5, "share"), (11, 5, "share")]
    assert [one.value for one in got.change if one] == [10]  # of 10, 0, 20, 0 and 30; medians differ by 8


def test_a_change_that_all_seeds_share_has_an_interval_without_width(rng):
    below = rng.standard_normal(12)
    got = over_seeds(np.stack([below, below + 0.5]), rng=rng)
    width = lambda one: one.ci[1] - one.ci[0]  # noqa: E731
    assert width(got.change[0]) < 1e-12 < 0.1 < width(got.each[0])


def test_seeds_without_a_value_are_left_out_and_not_counted(rng):
    values = np.array([[1.0, 2, 3], [np.nan, 5, 7], [np.nan, np.nan, np.nan]])
    got = over_seeds(values, rng=rng)
    assert [dataclasses.astuple(one)[::2] if one else None for one in got.each] == [(2, 3), (6, 2), None]
    assert [dataclasses.astuple(one)[::2] if one else None for one in got.change] == [(3.5, 2), None]
