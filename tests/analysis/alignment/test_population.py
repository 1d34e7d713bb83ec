import functools

import jax
import numpy as np
import pytest
from small_networks import draw, pick, relabel, repeat, theta

from analysis.alignment import (
    align_to_mean,
    align_to_medoid,
    align_to_reference,
    align_universe,
    match_weights,
    population,
)
from analysis.alignment.population import gram, objective
from wspace import MLP, stack_params
from wspace import symmetry as symmetries

METHODS = ["reference", "medoid", "mean", "universe"]


def matcher(rng, num_restarts=2):
    return functools.partial(match_weights, rng=rng, num_restarts=num_restarts)


def align(method, symmetry, params, rng):
    if method == "reference":
        return align_to_reference(symmetry, params, 1, matcher=matcher(rng))
    if method == "universe":
        return align_universe(symmetry, params, rng=rng)
    return {"medoid": align_to_medoid, "mean": align_to_mean}[method](symmetry, params, matcher=matcher(rng))


def planted(model, rng, num=6, noise: float | np.ndarray = 0.02):
    """Relabellings of one network, each with noise of its own."""
    levels = np.broadcast_to(noise, num)
    noisy = jax.tree.map(
        lambda leaf: leaf + levels.reshape(-1, *[1] * (leaf.ndim - 1)) * rng.standard_normal(leaf.shape),
        repeat(draw(model, rng), num),
    )
    plant = symmetries.random_element(model.symmetry, rng, (num,), kinds=("perm", "sign"))
    return plant, symmetries.act(model.symmetry, plant, noisy)


def distances(params):
    flat = theta(params, 1)
    return np.linalg.norm(flat[:, None] - flat, axis=-1)


def pair_sum(params):
    flat = theta(params, 1)
    return sum(flat[i] @ flat[j] for i in range(len(flat)) for j in range(i + 1, len(flat)))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("method", METHODS)
def test_relabellings_of_one_network_are_aligned_up_to_one_common_element(rng, method, activation):
    model = MLP((3, 6, 5, 2), activation)
    plant, params = planted(model, rng)
    found = align(method, model.symmetry, params, rng)
    aligned = symmetries.act(model.symmetry, found.element, params)
    flat = theta(aligned, 1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert (flat @ flat.T).min() > 0.99
    common = symmetries.compose(found.element, plant)
    for part in (*common.perms, *common.factors):
        np.testing.assert_array_equal(part, np.broadcast_to(part[0], part.shape))
    np.testing.assert_allclose(found.objective, pair_sum(aligned), rtol=1e-11)
    assert found.converged


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("method", METHODS)
def test_unrelated_networks_are_never_aligned_worse_from_round_to_round(method, activation):
    model = MLP((3, 6, 5, 2), activation)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        params = draw(model, rng, (5,), np.float32)
        found = align(method, model.symmetry, params, rng)
        assert np.all(np.diff(found.history) >= 0)
        aligned = symmetries.act(model.symmetry, found.element, params)
        np.testing.assert_allclose(found.objective, pair_sum(aligned), rtol=1e-6)
        np.testing.assert_allclose(found.history[-1], found.objective, rtol=1e-6)
        assert found.objective > pair_sum(params)
        if found.reference is not None:
            np.testing.assert_array_equal(symmetries.share_fixed(found.element)[found.reference], 1)


def test_the_reference_is_left_alone_and_all_others_are_matched_to_it(rng):
    model = MLP((3, 6, 5, 2), "tanh")
    params = draw(model, rng, (4,))
    for given, meant in ((0, 0), (2, 2), (-1, 3), (-4, 0)):
        found = align_to_reference(model.symmetry, params, given, matcher=matcher(np.random.default_rng(1)))
        assert found.reference == meant
        expected = match_weights(
            model.symmetry, pick(params, meant), params, rng=np.random.default_rng(1), num_restarts=2
        )
        assert found.match is not None
        np.testing.assert_array_equal(found.match.objective, expected.objective)
        plain = symmetries.identity(model.symmetry)
        for layer in range(2):
            for parts, others, same in zip(found.element, expected.element, plain, strict=True):
                np.testing.assert_array_equal(parts[layer][meant], same[layer])
                np.testing.assert_array_equal(np.delete(parts[layer], meant, 0), np.delete(others[layer], meant, 0))


@pytest.mark.parametrize("reference", [4, -5, 100])
def test_a_reference_that_does_not_exist_is_refused(rng, reference):
    model = MLP((3, 4, 2))
    with pytest.raises(ValueError, match=f"reference = {reference} is no position among 4 networks"):
        align_to_reference(model.symmetry, draw(model, rng, (4,)), reference, matcher=matcher(rng))


def test_the_medoid_is_the_network_most_like_all_others(rng):
    """3 has the least noise, 0 is the shortest."""
    model = MLP((3, 6, 5, 2), "tanh")
    _, params = planted(model, rng, noise=np.array([0.2, 0.2, 0.25, 0.01, 0.2, 0.3]))
    lengths = np.array([0.5, 1, 1, 1, 1, 1])
    params = jax.tree.map(lambda leaf: leaf * lengths.reshape(-1, *[1] * (leaf.ndim - 1)), params)
    found = align_to_medoid(model.symmetry, params, matcher=matcher(rng))
    assert found.reference == 3
    inner = gram(symmetries.act(model.symmetry, found.element, params))
    norms = np.sqrt(np.diag(inner))
    assert np.argmax((inner / np.outer(norms, norms)).sum(axis=1)) == 3
    assert found.converged
    assert np.all(np.diff(found.history) >= 0)


def test_a_collapsed_network_is_not_taken_for_the_medoid(rng):
    """Near the origin it is the closest to all others, and like none of them."""
    model = MLP((8, 12, 12, 4))
    _, params = planted(model, rng, noise=np.full(6, 0.7))
    tiny = jax.tree.map(lambda leaf: 1e-2 * leaf, draw(model, rng, (1,)))
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), params, tiny)
    alone, found = (align_to_medoid(model.symmetry, p, matcher=matcher(rng)) for p in (params, both))
    assert found.reference != 6
    assert found.objective > 0.95 * alone.objective


def test_the_mean_begins_where_it_is_told_and_ends_where_no_match_to_the_mean_is_better(rng):
    model = MLP((3, 6, 5, 2))
    params = draw(model, rng, (5,))
    start = align_to_reference(model.symmetry, params, 2, matcher=matcher(rng))
    found = align_to_mean(model.symmetry, params, matcher=matcher(rng), start=start)
    assert found.history[0] == start.objective
    assert found.reference is None
    assert found.converged
    mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), symmetries.act(model.symmetry, found.element, params))
    again = match_weights(model.symmetry, mean, params, rng=rng, num_restarts=2).element
    assert pair_sum(symmetries.act(model.symmetry, again, params)) <= found.objective * (1 + 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_opposite_networks_cannot_be_aligned_and_that_is_noticed_at_once(method):
    """The objective is negative whatever is done: one relu unit has nowhere to go."""
    model = MLP((2, 1, 1))
    a = draw(model, np.random.default_rng(0))
    params = stack_params([a, jax.tree.map(np.negative, a)])
    found = align(method, model.symmetry, params, np.random.default_rng(0))
    np.testing.assert_allclose(found.objective, -np.square(theta(a)).sum(), rtol=1e-6)
    assert found.converged
    assert len(found.history) <= 2


def test_the_universe_is_no_worse_than_its_start_and_no_network_can_be_moved_to_improve_it(rng):
    model = MLP((3, 6, 5, 2), "tanh")
    params = draw(model, rng, (6,))
    start = align_to_reference(model.symmetry, params, 0, matcher=matcher(rng))
    found = align_universe(model.symmetry, params, rng=rng, start=start)
    np.testing.assert_allclose(found.history[0], start.objective, rtol=1e-12)
    assert found.objective > start.objective
    assert found.converged
    aligned = symmetries.act(model.symmetry, found.element, params)
    flat = theta(aligned, 1)
    for i in range(6):
        rest = jax.tree.map(lambda leaf, i=i: leaf.sum(axis=0) - leaf[i], aligned)
        one = found.element[i : i + 1]
        network = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params)
        again = match_weights(model.symmetry, rest, network, rng=rng, start=one)
        np.testing.assert_allclose(again.objective[0], flat[i] @ (flat.sum(axis=0) - flat[i]), rtol=1e-9)


def test_the_gram_matrix_and_the_objective_are_plain_numpys(rng, monkeypatch):
    params = draw(MLP((3, 6, 5, 2)), rng, (4,), np.float32)
    flat = theta(params, 1)
    for chunk in (population.CHUNK_VALUES, 4 * 7):
        monkeypatch.setattr(population, "CHUNK_VALUES", chunk)
        np.testing.assert_allclose(gram(params), flat @ flat.T, rtol=1e-12)
        np.testing.assert_allclose(objective(params), pair_sum(params), rtol=1e-12)


def test_two_networks_make_a_population_and_the_objective_is_their_match(rng):
    model = MLP((3, 6, 2))
    params = draw(model, rng, (2,))
    best = match_weights(model.symmetry, pick(params, 0), jax.tree.map(lambda leaf: leaf[1:], params), rng=rng)
    for method in METHODS:  # one hidden layer: the optimum is unique
        np.testing.assert_allclose(align(method, model.symmetry, params, rng).objective, best.objective[0], rtol=1e-12)


def test_the_population_is_left_alone(rng):
    model = MLP((3, 6, 2), "tanh")
    _, params = relabel(model, draw(model, rng), rng, 3)
    before = jax.tree.map(np.copy, params)
    for method in METHODS:
        align(method, model.symmetry, params, rng)
    for got, expected in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(got, expected)
