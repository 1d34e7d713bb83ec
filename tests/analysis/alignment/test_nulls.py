import functools

import jax
import numpy as np
import pytest
from small_networks import draw, inner, outputs, pick

from analysis.alignment import match_frank_wolfe, match_weights, planted, random_relabelling
from analysis.alignment.nulls import scrambled
from wspace import MLP
from wspace import symmetry as symmetries


def copies(model, params, noise, rng, match=match_weights):
    return planted(model.symmetry, params, noise, matcher=functools.partial(match, rng=rng), rng=rng)


@pytest.mark.parametrize("match", [match_weights, match_frank_wolfe])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_without_noise_every_unit_is_recovered(rng, activation, match):
    model = MLP((3, 8, 6, 2), activation)
    params = draw(model, rng, (5,), np.float32)
    found = copies(model, params, [0.0, 0.01], rng, match)
    np.testing.assert_array_equal(found.noise, [0, 0.01])
    np.testing.assert_array_equal(found.recovered, np.ones((2, 5)))
    lengths = [inner(pick(params, i), pick(params, i)) for i in range(5)]
    np.testing.assert_allclose(found.planted[0], lengths, rtol=1e-12)
    np.testing.assert_allclose(found.found[0], found.planted[0], rtol=1e-12)
    np.testing.assert_allclose(found.found[1], found.planted[1], rtol=1e-12)


@pytest.mark.parametrize(("activation", "chance"), [("relu", 1 / 20), ("tanh", 1 / 40)])
def test_drowned_in_noise_units_are_recovered_by_chance(rng, activation, chance):
    model = MLP((3, 20, 2), activation)
    found = copies(model, draw(model, rng, (40,)), [0.0, 0.5, 100.0], rng)
    mean = found.recovered.mean(axis=1)
    assert 1 == mean[0] > mean[1] > mean[2]
    np.testing.assert_allclose(mean[2], chance, atol=0.06)
    assert np.all(found.found[2] > found.planted[2])  # what it finds instead is better than the truth


def test_noise_has_the_size_that_it_is_said_to_have(rng):
    model = MLP((30, 40, 30))
    params, seen = draw(model, rng, (3,)), []

    def record(symmetry, reference, moved):
        seen.append(moved)
        return match_weights(symmetry, reference, moved, rng=np.random.default_rng(0), num_restarts=1)

    found = planted(model.symmetry, params, [0.0, 0.5, 2.0], matcher=record, rng=rng)
    for level, moved, known in zip(found.noise, seen, found.planted, strict=True):
        for i in range(3):
            length2, moved2 = (inner(pick(p, i), pick(p, i)) for p in (params, moved))
            np.testing.assert_allclose(moved2 + length2 - 2 * known[i], level**2 * length2, rtol=0.15, atol=1e-9)


def test_random_relabellings_are_the_same_functions_elsewhere(rng):
    model, x = MLP((3, 8, 6, 2), "tanh"), rng.standard_normal((20, 3))
    params = draw(model, rng, (4,))
    element, moved = random_relabelling(model.symmetry, params, rng=rng)
    assert np.all(symmetries.share_fixed(element) < 0.5)
    back = symmetries.act(model.symmetry, symmetries.invert(element), moved)
    for got, expected in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, expected)
    for i in range(4):
        before, after = (outputs(model, pick(p, i), x) for p in (params, moved))
        np.testing.assert_allclose(after, before, rtol=1e-11, atol=1e-12)
        assert not np.array_equal(element.perms[0][i], element.perms[0][i - 1])


def test_scrambled_networks_keep_each_inputs_weights_and_lose_the_units(rng):
    model = MLP((4, 7, 6, 3))
    params = draw(model, rng, (3,))
    mixed = scrambled(model.symmetry, params, rng=rng)
    for layer in range(2):  # columns are dealt out anew, row by row
        np.testing.assert_array_equal(
            np.sort(mixed[layer]["weight"], axis=-1), np.sort(params[layer]["weight"], axis=-1)
        )
        np.testing.assert_array_equal(np.sort(mixed[layer]["bias"]), np.sort(params[layer]["bias"]))
        assert not np.array_equal(mixed[layer]["weight"], params[layer]["weight"])
    np.testing.assert_array_equal(np.sort(mixed[2]["weight"], axis=-2), np.sort(params[2]["weight"], axis=-2))
    np.testing.assert_array_equal(mixed[2]["bias"], params[2]["bias"])


def test_scrambling_takes_away_what_two_relabelled_copies_share(rng):
    model = MLP((20, 12, 3))
    one = draw(model, rng, (1,))
    pair = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), one)
    find = functools.partial(match_weights, rng=rng, num_restarts=2)
    kept, lost = (
        find(model.symmetry, jax.tree.map(lambda leaf: leaf[0], p), jax.tree.map(lambda leaf: leaf[1:], p)).objective[0]
        for p in (pair, scrambled(model.symmetry, pair, rng=rng))
    )
    assert lost < 0.8 * kept
