import itertools

import jax
import numpy as np
import pytest
from small_networks import draw, inner, pick, relabel, theta

from analysis.alignment import Match, align_universe, cycle_error, match_pairs, match_weights, transitivity_loss
from wspace import MLP
from wspace import symmetry as symmetries
from wspace.errors import StoreError

MODEL = MLP((3, 6, 5, 2), "tanh")


class Counted:
    """Weight matching that counts its calls, and fails in one of them."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, symmetry, reference, params):
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return match_weights(symmetry, reference, params, rng=np.random.default_rng(0), num_restarts=2)


def matched(params, model=MODEL, **options):
    options = {"matcher": Counted(), "name": "weights", **options}
    return match_pairs(model.symmetry, params, **options)


def assert_same(got, expected):
    for a, b in zip(jax.tree.leaves(vars(got)), jax.tree.leaves(vars(expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def relative(element):
    """g_i^-1 g_j for every pair."""
    num = len(element.perms[0])
    i, j = np.indices((num, num)).reshape(2, -1)
    flat = symmetries.compose(symmetries.invert(element[i]), element[j])
    fold = lambda part: part.reshape(num, num, -1)  # noqa: E731
    return symmetries.Element(tuple(map(fold, flat.perms)), tuple(map(fold, flat.factors)))


def test_every_pair_is_matched_and_the_way_back_is_the_inverse(rng):
    params, seen = draw(MODEL, rng, (5,)), []
    found = matched(params, progress=lambda done, num: seen.append((done, num)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    expected = match_weights(
        MODEL.symmetry, pick(params, 1), jax.tree.map(lambda leaf: leaf[2:], params),
        rng=np.random.default_rng(0), num_restarts=2,
    )  # fmt: skip
    np.testing.assert_allclose(found.inner[1, 2:], expected.objective, rtol=1e-12)
    np.testing.assert_allclose(found.spread[1, 2:], expected.spread, rtol=1e-12)
    assert found.converged.all()
    flat = theta(params, 1)
    for i, j in itertools.product(range(5), repeat=2):
        there, back = found.element[i, j], found.element[j, i]
        assert symmetries.share_fixed(symmetries.compose(there, back)[None]) == 1
        moved = symmetries.act(MODEL.symmetry, there, pick(params, j))
        np.testing.assert_allclose(found.inner[i, j], inner(pick(params, i), moved), rtol=1e-12)
        np.testing.assert_allclose(found.raw[i, j], flat[i] @ flat[j], rtol=1e-12)
        for which, vector in ((found.inner, theta(moved)), (found.raw, flat[j])):
            length = np.linalg.norm(flat[i] - vector)
            np.testing.assert_allclose(found.distance(which)[i, j], length, rtol=1e-9, atol=1e-6)
            cosine = flat[i] @ vector / np.linalg.norm(flat[i]) / np.linalg.norm(vector)
            np.testing.assert_allclose(found.cosine(which)[i, j], cosine, rtol=1e-12)
    upper = np.triu_indices(5, 1)
    assert np.all(found.inner[upper] > found.raw[upper])


def test_a_cycle_closes_where_all_elements_come_from_one_labelling(rng):
    element = symmetries.random_element(MODEL.symmetry, rng, (7,), kinds=("perm", "sign"))
    error = cycle_error(relative(element), rng=rng)
    assert (error.value, error.ci, error.n, error.unit) == (0, (0, 0), 7, "share")
    plant, params = relabel(MODEL, draw(MODEL, rng), rng, 5)
    matches = matched(params)
    assert cycle_error(matches.element, rng=rng).value == 0
    np.testing.assert_allclose(matches.cosine(matches.inner), 1, rtol=1e-12)
    for got, expected in zip(
        jax.tree.leaves(matches.element), jax.tree.leaves(relative(symmetries.invert(plant))), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("activation", "chance"), [("relu", 1 - 1 / 8), ("tanh", 1 - 1 / 16)])
def test_unrelated_elements_return_as_seldom_as_chance_has_it(rng, activation, chance):
    group = MLP((3, 8, 2), activation).symmetry
    error = cycle_error(symmetries.random_element(group, rng, (12, 12), kinds=("perm", "sign")), rng=rng)
    np.testing.assert_allclose(error.value, chance, atol=0.015)
    assert error.ci is not None
    assert error.ci[0] <= error.value <= error.ci[1]
    assert error.ci[1] - error.ci[0] < 0.1


def test_the_cycle_error_is_the_mean_over_ordered_triples_and_weighs_each_by_its_seeds_counts(rng):
    group = MLP((3, 4, 3, 2), "tanh").symmetry
    element = symmetries.random_element(group, rng, (5, 5), kinds=("perm", "sign"))
    shares = {
        (i, j, k): 1 - symmetries.share_fixed(
            symmetries.compose(element[i, j], symmetries.compose(element[j, k], element[k, i]))[None]
        )[0]
        for i, j, k in itertools.permutations(range(5), 3)
    }  # fmt: skip
    error = cycle_error(element, rng=np.random.default_rng(4))
    np.testing.assert_allclose(error.value, np.mean(list(shares.values())), rtol=1e-12)
    resamples, draws = np.random.default_rng(4), []
    seeds = resamples.integers(5, size=(1000, 5))
    while np.any(single := np.ptp(seeds, axis=1) == 0):
        seeds[single] = resamples.integers(5, size=(int(single.sum()), 5))
    for row in seeds:
        listed = [shares[t] for t in itertools.permutations(row, 3) if len(set(t)) == 3]
        draws.append(np.mean(listed) if listed else error.value)
    assert error.ci is not None
    np.testing.assert_allclose(error.ci, np.quantile(draws, [0.025, 0.975]), rtol=1e-10)


def test_a_cycle_takes_three_networks(rng):
    group = MODEL.symmetry
    three = cycle_error(symmetries.random_element(group, rng, (3, 3), kinds=("perm",)), rng=rng)
    assert three.n == 3
    assert three.ci is None or three.ci[0] <= three.value <= three.ci[1]
    with pytest.raises(ValueError, match="a cycle takes three networks with hidden units, got 2"):
        cycle_error(symmetries.identity(group, (2, 2)), rng=rng)


def test_transitivity_loses_nothing_where_one_labelling_is_every_pairs_own_match(rng):
    _, params = relabel(MODEL, draw(MODEL, rng), rng, 5)
    noisy = jax.tree.map(lambda leaf: leaf + 0.01 * rng.standard_normal(leaf.shape), params)
    matches, universe = matched(noisy), align_universe(MODEL.symmetry, noisy, rng=rng)
    np.testing.assert_allclose(transitivity_loss(matches, universe), 0, atol=1e-10)


def test_transitivity_is_the_share_of_the_gain_that_is_given_up(rng):
    params = draw(MODEL, rng, (5,))
    matches, universe = matched(params), align_universe(MODEL.symmetry, params, rng=rng)
    upper = np.triu_indices(5, 1)
    raw, own = matches.raw[upper].sum(), matches.inner[upper].sum()
    loss = transitivity_loss(matches, universe)
    np.testing.assert_allclose(loss, (own - universe.objective) / (own - raw), rtol=1e-12)
    assert 0 < loss < 1
    aligned = symmetries.act(MODEL.symmetry, universe.element, params)
    again = match_pairs(MODEL.symmetry, aligned, matcher=nothing_to_do, name="identity")
    assert transitivity_loss(again, universe) == 0


def nothing_to_do(symmetry, reference, params):
    num = len(jax.tree.leaves(params)[0])
    plain = symmetries.identity(symmetry, (num,))
    return Match(plain, np.zeros(num), np.zeros((num, 1)), np.zeros(num, int), np.ones(num, bool), (np.zeros(1),) * num)


def test_a_killed_computation_goes_on_where_it_stopped(rng, tmp_path):
    params, path = draw(MODEL, rng, (5,), np.float32), tmp_path / "pairs"
    with pytest.raises(KeyboardInterrupt):
        matched(params, matcher=Counted(fail_at=2), path=path)
    rest, done = Counted(), Counted()
    resumed = matched(params, matcher=rest, path=path)
    assert rest.calls == 2
    assert_same(matched(params, matcher=done, path=path), resumed)
    assert done.calls == 0
    assert_same(matched(params), resumed)


def test_other_networks_another_matcher_or_another_symmetry_are_computed_anew(rng, tmp_path):
    params, path = draw(MODEL, rng, (4,)), tmp_path / "pairs"

    def calls(params, **options):
        counted = Counted()
        matched(params, matcher=counted, path=path, **options)
        return counted.calls

    assert calls(params) == 3
    assert calls(params) == 0
    assert calls(params, name="weights, 8 restarts") == 3
    changed = jax.tree.map(np.copy, params)
    changed[1]["weight"][3, 0, 0] += 1
    assert calls(changed, name="weights, 8 restarts") == 3
    assert calls(pick(changed, slice(3)), name="weights, 8 restarts") == 2
    without_signs = MLP(MODEL.sizes, "gelu")
    assert calls(pick(changed, slice(3)), name="weights, 8 restarts", model=without_signs) == 2


def test_a_folder_of_something_else_is_refused_and_left_alone(rng, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    counted = Counted()
    with pytest.raises(StoreError, match=r"holds \['thesis.tex'\]: it is no folder of rows"):
        matched(draw(MODEL, rng, (3,)), matcher=counted, path=tmp_path)
    assert counted.calls == 0
    assert [file.read_text() for file in tmp_path.iterdir()] == ["years of work"]
