import dataclasses
import importlib
import itertools
import math

import jax
import numpy as np
import pytest

from analysis.census.distinct import distinct, log10_orbit_sizes, outputs_distance, weights_distance
from wspace.errors import SymmetryError
from wspace.models import MLP
from wspace.symmetry import Axis, Element, Symmetry, Units, act, balance, random_element

SMALL = [
    MLP((2, 3, 1), "tanh"), MLP((2, 4, 2), "relu"), MLP((3, 5, 2), "gelu"), MLP((2, 3, 3, 1), "tanh"),
    MLP((2, 3, 4, 1), "relu"), MLP((2, 3, 2), "identity"), MLP((4, 2), "tanh"),
]  # fmt: skip
LARGE = [MLP((4, 6, 7, 3), "tanh"), MLP((4, 8, 8, 3), "relu"), MLP((3, 5, 4, 5, 2), "gelu")]  # matched, not enumerated
MODULE = importlib.import_module("analysis.census.distinct")  # the package has a function of this name
name = lambda model: f"{model.activation}{model.sizes}"  # noqa: E731


def draw(model, rng, num):
    """NumPy params with Gaussian weights and biases, (network, ...)."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal((num, *leaf.shape)), shapes)


def take(params, index):
    return jax.tree.map(lambda leaf: leaf[index], params)


def theta(params):
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)], axis=1)


def outputs_of(model, params, x):
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(model.apply, (0, None))(params, x))


def every_element(symmetry):
    """All perms and signs of one or two layers, stacked, by plain loops."""
    per_layer = []
    for units in symmetry.layers:
        signs = list(itertools.product((1.0, -1.0), repeat=units.num)) if units.sign else [(1.0,) * units.num]
        per_layer.append([(p, s) for p in itertools.permutations(range(units.num)) for s in signs])
    both = list(itertools.product(*per_layer))
    layers = range(len(symmetry.layers))
    return Element(
        tuple(np.array([e[i][0] for e in both]) for i in layers),
        tuple(np.array([e[i][1] for e in both]) for i in layers),
    )


def images(symmetry, params, index):
    """theta of one network under every element."""
    elements = every_element(symmetry)
    num = len(elements.perms[0])
    return theta(act(symmetry, elements, take(params, np.full(num, index))))


def planted(model, rng, num, copies, noise):
    """`num` networks, `copies` relabelled and rescaled copies of each in random order, and which is a copy of which."""
    source = rng.permutation(np.repeat(np.arange(num), copies))
    params = take(draw(model, rng, num), source)
    moved = act(model.symmetry, random_element(model.symmetry, rng, (len(source),)), params)
    size = noise * np.linalg.norm(theta(params), axis=1) / math.sqrt(theta(params).shape[1])
    moved = jax.tree.map(
        lambda leaf: leaf + size.reshape(-1, *[1] * (leaf.ndim - 1)) * rng.standard_normal(leaf.shape), moved
    )
    return source, moved


def same_partition(one, other):
    return np.array_equal(one[:, None] == one, other[:, None] == other)


def counted(distances, tolerances):
    """Components of the graph of pairs that are at most so far apart, by walking through it."""
    counts = []
    for tolerance in tolerances:
        unseen, count = set(range(len(distances))), 0
        while unseen:
            count, frontier = count + 1, [unseen.pop()]
            while frontier:
                reached = {k for k in unseen if distances[frontier[-1], k] <= tolerance}
                frontier = frontier[:-1] + list(reached)
                unseen -= reached
        counts.append(count)
    return counts


def matrix(pairs):
    num = round((1 + math.sqrt(1 + 8 * len(pairs))) / 2)
    square = np.zeros((num, num))
    square[np.triu_indices(num, 1)] = pairs
    return square + square.T


@pytest.mark.parametrize("noise", [0.0, 1e-6])
@pytest.mark.parametrize("model", SMALL + LARGE, ids=name)
def test_planted_copies_are_found_exactly(rng, model, noise):
    copies = 6 if model in SMALL else 3
    source, params = planted(model, rng, num=7, copies=copies, noise=noise)
    outputs = outputs_of(model, params, rng.standard_normal((10, model.sizes[0])))
    losses = np.mean(np.square(outputs), axis=(1, 2))
    found = distinct(model.symmetry, params, losses, outputs, rng=rng)
    assert same_partition(found.by_weights, source)
    assert same_partition(found.by_function, source)
    assert found.representatives.shape == (7,)
    assert np.all(np.diff(losses[found.representatives]) > 0)
    for label, representative in enumerate(found.representatives):
        members = np.flatnonzero(found.by_weights == label)
        assert representative == members[np.argmin(losses[members])]
    np.testing.assert_array_equal(found.by_function, found.by_weights)  # both numbered by loss
    plateau = (found.tolerances >= 10 * max(noise, 1e-9)) & (found.tolerances <= 1e-3)
    assert np.all(found.num_by_weights[plateau] == 7)
    if noise == 0:
        assert found.num_pairs == 7 * 6 / 2 + 7 * (copies - 1)  # leaders, and each copy with its own leader alone
    else:
        assert found.num_by_weights[0] == 7 * copies


@pytest.mark.parametrize("model", [SMALL[0], SMALL[1], SMALL[3]], ids=name)
def test_counts_and_labels_are_components_of_all_networks(rng, model):
    """Collapsing and the order of comparisons change nothing; noise of all sizes makes all tolerances matter."""
    parts = [planted(model, rng, num=2, copies=4, noise=noise)[1] for noise in (0.0, 1e-5, 1e-3, 0.1)]
    params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    outputs = outputs_of(model, params, rng.standard_normal((10, model.sizes[0])))
    found = distinct(model.symmetry, params, rng.permutation(32).astype(float), outputs, rng=rng, tolerance=1e-2)
    by_weights, by_function = matrix(weights_distance(model.symmetry, params, rng=rng)), outputs_distance(outputs)
    np.testing.assert_array_equal(found.num_by_weights, counted(by_weights, found.tolerances))
    np.testing.assert_array_equal(found.num_by_function, counted(by_function, found.tolerances))
    assert len(set(found.num_by_weights.tolist())) > 4
    assert (found.tolerances[0], found.tolerances[-1], len(found.tolerances)) == (pytest.approx(1e-8), 1, 81)
    for labels, counts in ((found.by_weights, found.num_by_weights), (found.by_function, found.num_by_function)):
        assert labels.max() + 1 == counts[60]
    assert found.tolerances[60] == pytest.approx(found.tolerance)


def test_chains_of_close_networks_are_one(rng):
    """Single linkage: the ends of a chain are the same minimum, however far apart."""
    model = MLP((2, 3, 1), "gelu")
    params = jax.tree.map(lambda leaf: leaf * (1 + 5e-5 * np.arange(40)).reshape(-1, *[1] * (leaf.ndim - 1)),
                          take(draw(model, rng, 1), np.zeros(40, int)))  # fmt: skip
    outputs = outputs_of(model, params, rng.standard_normal((5, 2)))
    found = distinct(model.symmetry, params, np.zeros(40), outputs, rng=rng)
    assert found.by_weights.max() == 0
    assert weights_distance(model.symmetry, params, np.array([[0, 39]]), rng=rng)[0] > 10 * found.tolerance


def test_dead_units_and_divided_units_are_one_function_and_many_weights(rng):
    model = MLP((2, 3, 1), "tanh")
    base = take(draw(model, rng, 2), np.repeat([0, 1], 6))
    (first, second) = base
    second["weight"][:6, 2] = 0  # unit 2 sends nothing, so what it receives is of no concern
    first["weight"][:6, :, 2] = rng.standard_normal((6, 2))
    first["weight"][6:, :, 1], first["bias"][6:, 1] = first["weight"][6:, :, 0], first["bias"][6:, 0]
    total, part = second["weight"][6:, 0] + second["weight"][6:, 1], np.linspace(0.1, 0.4, 6)[:, None]
    second["weight"][6:, 0], second["weight"][6:, 1] = part * total, (1 - part) * total  # twins share what they send
    params = act(model.symmetry, random_element(model.symmetry, rng, (12,)), base)
    outputs = outputs_of(model, params, rng.standard_normal((10, 2)))
    found = distinct(model.symmetry, params, np.repeat([1.0, 0.5], 6), outputs, rng=rng)
    assert found.by_function.tolist() == [1] * 6 + [0] * 6
    assert sorted(found.by_weights.tolist()) == list(range(12))
    assert set(found.by_weights[6:]) == set(range(6))  # the lower loss comes first
    assert found.num_by_function[0] == 2


@pytest.mark.parametrize("model", [*SMALL[:6], MLP((2, 2, 2, 1), "tanh")], ids=name)
def test_distance_is_the_least_over_the_whole_group(rng, model):
    symmetry, params = model.symmetry, draw(model, rng, 6)
    found = weights_distance(symmetry, params, rng=rng)
    if symmetry.scale:
        params = act(symmetry, balance(symmetry, params, 1), params)
    length = np.linalg.norm(theta(params), axis=1)
    for (i, j), distance in zip(itertools.combinations(range(6), 2), found, strict=True):
        best = np.linalg.norm(theta(params)[i] - images(symmetry, params, j), axis=1).min()
        assert distance == pytest.approx(best / (0.5 * (length[i] + length[j])), rel=1e-12)


def test_matched_distances_are_upper_bounds_and_nearly_the_least(rng, monkeypatch):
    model = MLP((2, 3, 3, 1), "tanh")
    params = draw(model, rng, 12)
    least = weights_distance(model.symmetry, params, rng=rng)
    monkeypatch.setattr(MODULE, "MOST_ELEMENTS", 1)
    matched = weights_distance(model.symmetry, params, rng=rng)
    assert np.all(matched >= least * (1 - 1e-12))
    assert np.median(matched / least) < 1.1


@pytest.mark.parametrize("model", [*SMALL, *LARGE], ids=name)
def test_copies_are_as_far_apart_as_rounding(rng, model):
    _, params = planted(model, rng, num=1, copies=5, noise=0)
    rounding = 1e-11 if model.symmetry.scale else 1e-15  # balancing stops at factors within 1e-12 of 1
    assert weights_distance(model.symmetry, params, rng=rng).max() < rounding


@pytest.mark.parametrize("model", [SMALL[0], SMALL[3], LARGE[0]], ids=name)
def test_tiny_distances_are_not_lost(rng, model):
    """A unit that moves by 1e-11 is seen, which a difference of squared lengths would hide."""
    params = take(draw(model, rng, 1), [0, 0])
    params[0]["bias"][1, 0] += 1e-11
    expected = 1e-11 / np.linalg.norm(theta(params)[0])
    assert weights_distance(model.symmetry, params, rng=rng) == pytest.approx([expected], rel=1e-4)


def test_only_the_pairs_asked_for_are_measured(rng, monkeypatch):
    model = MLP((2, 4, 1), "relu")
    params, pairs = draw(model, rng, 5), np.array([[4, 0], [1, 3], [2, 2]])
    full = matrix(weights_distance(model.symmetry, params, rng=rng))
    np.testing.assert_allclose(
        weights_distance(model.symmetry, params, pairs, rng=rng), full[tuple(pairs.T)], atol=1e-15
    )
    assert weights_distance(model.symmetry, params, np.zeros((0, 2), int), rng=rng).shape == (0,)
    monkeypatch.setattr(MODULE, "CHUNK_VALUES", 40)  # two pairs at a time
    np.testing.assert_array_equal(matrix(weights_distance(model.symmetry, params, rng=rng)), full)


def test_a_layer_that_feeds_itself_is_compared_as_a_whole(rng):
    axes = (Axis("in", -1), Axis("loop", -1), Axis("loop", -2, sends=True))
    symmetry = Symmetry((Units(3, axes, sign=True),))
    params = {"in": rng.standard_normal((4, 2, 3)), "loop": rng.standard_normal((4, 3, 3)), "own": np.ones((4, 2))}
    moved = act(symmetry, random_element(symmetry, rng, (4,)), params)
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves), params, moved)
    distances = weights_distance(symmetry, both, rng=rng)
    assert np.all(np.diag(matrix(distances), 4) < 1e-15)
    length = np.linalg.norm(theta(both), axis=1)
    for (i, j), distance in zip(itertools.combinations(range(8), 2), distances, strict=True):
        best = np.linalg.norm(theta(both)[i] - images(symmetry, both, j), axis=1).min()
        assert distance == pytest.approx(best / (0.5 * (length[i] + length[j])), rel=1e-12, abs=1e-15)
    np.testing.assert_allclose(log10_orbit_sizes(symmetry, params), math.log10(48))


def test_zero_networks_are_equal(rng):
    model = MLP((2, 3, 1), "relu")
    params = jax.tree.map(np.zeros_like, draw(model, rng, 2))
    assert weights_distance(model.symmetry, params, rng=rng).tolist() == [0]
    assert log10_orbit_sizes(model.symmetry, params) == pytest.approx([0, 0], abs=1e-14)


def test_outputs_are_compared_in_units_of_their_deviation(rng):
    outputs = rng.standard_normal((6, 7, 3)) + np.array([5.0, -3.0, 0.0])
    found = outputs_distance(outputs)
    scale = np.sqrt(np.mean((outputs - outputs.mean(axis=(0, 1))) ** 2))
    for i, j in itertools.product(range(6), repeat=2):
        assert found[i, j] == pytest.approx(np.sqrt(np.mean((outputs[i] - outputs[j]) ** 2)) / scale, rel=1e-12)
    np.testing.assert_allclose(outputs_distance(-7 * outputs + 100), found, rtol=1e-10)
    assert outputs_distance(outputs.astype(np.float32)) == pytest.approx(found, rel=1e-5)


def test_tiny_differences_of_outputs_are_not_lost(rng):
    outputs = np.repeat(rng.standard_normal((1, 7, 3)), 3, axis=0)
    outputs[1, 0, 0] += 1e-12
    found = outputs_distance(outputs)
    assert found[0, 2] == 0
    assert found[0, 1] == pytest.approx(1e-12 / np.sqrt(21) / outputs[0].std(axis=0).mean(), rel=0.5)


@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_constant_outputs_are_one_function(rng, noise):
    outputs = np.full((3, 5, 2), 0.3) + noise * rng.standard_normal((3, 5, 2))
    assert not outputs_distance(outputs).any()


def unit(params, index):
    """Views of what a unit of the first layer receives and sends."""
    return params[0]["weight"][..., index], params[0]["bias"][..., index], params[1]["weight"][..., index, :]


def equal_units(params, sign=1.0):
    for a, b in zip(unit(params, 0), unit(params, 1), strict=True):
        b[...] = sign * a


def zero_unit(params, index=2):
    for part in unit(params, index):
        part[...] = 0


CASES = {
    "generic": lambda params: None,
    "equal": equal_units,
    "opposite": lambda params: equal_units(params, -1.0),
    "zero": zero_unit,
    "equal and zero": lambda params: (equal_units(params), zero_unit(params)),
    "two zero": lambda params: (zero_unit(params, 1), zero_unit(params, 2)),
    "all zero": lambda params: [zero_unit(params, i) for i in range(3)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", [MLP((2, 3, 2), "tanh"), MLP((2, 3, 2), "relu"), MLP((2, 3, 3, 1), "tanh")], ids=name)
def test_orbits_are_the_distinct_images(rng, model, case):
    params = draw(model, rng, 2)
    CASES[case](params)
    expected = []
    for network in range(2):
        balanced = act(model.symmetry, balance(model.symmetry, params, 1), params) if model.symmetry.scale else params
        rounded = np.round(images(model.symmetry, balanced, network), 9) + 0.0  # no -0
        expected.append(math.log10(len(np.unique(rounded, axis=0))))
    np.testing.assert_allclose(log10_orbit_sizes(model.symmetry, params), expected, atol=1e-12)


def test_orbits_do_not_overflow_and_do_not_depend_on_scales(rng):
    model = MLP((1, 512, 512, 1), "relu", bias=False)
    params = take(draw(model, rng, 1), [0])
    exact = 2 * math.lgamma(513) / math.log(10)
    assert log10_orbit_sizes(model.symmetry, params) == pytest.approx([exact], rel=1e-12)
    small = MLP((2, 3, 1), "relu")
    params = draw(small, rng, 4)
    equal_units(params)
    moved = act(small.symmetry, random_element(small.symmetry, rng, (4,)), params)
    np.testing.assert_allclose(log10_orbit_sizes(small.symmetry, moved), math.log10(3))
    assert log10_orbit_sizes(MLP((2, 1)).symmetry, draw(MLP((2, 1)), rng, 3)).tolist() == [0, 0, 0]


def test_orbits_tell_units_apart_at_the_tolerance(rng):
    model = MLP((2, 3, 1), "gelu")
    params = draw(model, rng, 1)
    equal_units(params)
    params[0]["bias"][0, 1] += 1e-4
    assert log10_orbit_sizes(model.symmetry, params) == pytest.approx([math.log10(6)])
    assert log10_orbit_sizes(model.symmetry, params, tolerance=1e-3) == pytest.approx([math.log10(3)])


def test_a_single_network_is_one_minimum(rng):
    model = MLP((2, 3, 1), "tanh")
    found = distinct(model.symmetry, draw(model, rng, 1), np.ones(1), rng.standard_normal((1, 3, 1)), rng=rng)
    assert (found.by_weights.tolist(), found.by_function.tolist(), found.representatives.tolist()) == ([0], [0], [0])
    assert (found.num_pairs, set(found.num_by_weights), set(found.num_by_function)) == (0, {1}, {1})


def test_the_generator_decides_all(rng):
    model = LARGE[0]
    _, params = planted(model, rng, num=4, copies=3, noise=1e-3)
    outputs = outputs_of(model, params, rng.standard_normal((5, 4)))
    one, other = (
        distinct(model.symmetry, params, np.zeros(12), outputs, rng=np.random.default_rng(3)) for _ in range(2)
    )
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def unchecked(function):
    return getattr(function, "__wrapped__", function)  # users have no type checker


def test_what_does_not_fit_is_refused(rng):
    model = MLP((2, 3, 1), "tanh")
    params, outputs = draw(model, rng, 4), rng.standard_normal((4, 5, 1))
    compare = unchecked(distinct)
    for tolerance, floor in ((0.0, 1e-8), (2.0, 1e-8), (1e-9, 1e-8), (1e-4, 0.0), (np.nan, 1e-8)):
        with pytest.raises(ValueError, match="0 < floor <= tolerance <= 1 is expected"):
            compare(model.symmetry, params, np.zeros(4), outputs, rng=rng, tolerance=tolerance, floor=floor)
    with pytest.raises(ValueError, match="4 networks have 3 losses, 0 of them not finite, and 4 outputs"):
        compare(model.symmetry, params, np.zeros(3), outputs, rng=rng)
    with pytest.raises(ValueError, match="1 of them not finite"):
        compare(model.symmetry, params, np.array([0, 1, np.nan, 2]), outputs, rng=rng)
    with pytest.raises(ValueError, match=r"outputs of shape \(4, 0, 1\)"):
        compare(model.symmetry, params, np.zeros(4), outputs[:, :0], rng=rng)
    outputs[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="1 of them not finite"):
        outputs_distance(outputs)
    for function in (
        lambda p: weights_distance(model.symmetry, p, rng=rng),
        lambda p: log10_orbit_sizes(model.symmetry, p),
    ):
        params[0]["bias"][2, 1] = np.nan
        with pytest.raises(ValueError, match="bias is not finite"):
            function(params)
        with pytest.raises(ValueError, match="stacked along a first axis"):
            function({"one": np.zeros((2, 3)), "other": np.zeros((3, 3))})
        with pytest.raises(SymmetryError, match="declares"):
            function(draw(MLP((2, 4, 1)), rng, 2))
