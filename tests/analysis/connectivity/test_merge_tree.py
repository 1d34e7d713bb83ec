import functools
import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Wells, corners, population, zero_targets
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from analysis.connectivity import barrier_matrices, components, merge_tree, minimax_gain, through_others
from analysis.statistics import bootstrap_seeds


def symmetric(half):
    half = np.triu(half, 1)
    return half + half.T


@st.composite
def graphs(draw, most=6):
    """Heights and leaves of up to six networks: whole numbers, so that there are ties and zeros."""
    num = draw(st.integers(1, most))
    leaves = np.array(draw(st.lists(st.integers(-1, 3), min_size=num, max_size=num)), float)
    rises = draw(st.lists(st.integers(0, 4), min_size=num * num, max_size=num * num))
    return symmetric(np.maximum.outer(leaves, leaves) + np.reshape(rises, (num, num))), leaves


def random_graph(rng, num):
    leaves = rng.random(num)
    return symmetric(np.maximum.outer(leaves, leaves) + rng.random((num, num))), leaves


def minimax_of_all_paths(heights, leaves):
    """Every path without a loop, written out."""
    num, found = len(leaves), np.diag(leaves)
    for i, j in itertools.permutations(range(num), 2):
        others = [k for k in range(num) if k not in (i, j)]
        chains = itertools.chain(*(itertools.permutations(others, m) for m in range(num - 1)))
        found[i, j] = min(max(heights[a, b] for a, b in itertools.pairwise((i, *chain, j))) for chain in chains)
    return found


def branches(tree):
    """The seeds of each branch, from left to right."""
    seeds = [[seed] for seed in range(len(tree.leaves))]
    for left, right in tree.children:
        seeds.append(seeds[left] + seeds[right])
    return seeds


@given(graphs())
def test_networks_meet_at_the_least_highest_loss_of_all_paths(graph):
    np.testing.assert_array_equal(merge_tree(*graph).minimax, minimax_of_all_paths(*graph))


@given(graphs())
def test_the_merges_say_where_networks_meet(graph):
    tree = merge_tree(*graph)
    num, seeds, met = len(tree.leaves), branches(tree), np.diag(graph[1])
    for height, (a, b) in zip(tree.height, tree.children, strict=True):
        met[np.ix_(seeds[a], seeds[b])] = met[np.ix_(seeds[b], seeds[a])] = height
    np.testing.assert_array_equal(met, tree.minimax)
    assert np.all(np.diff(tree.height) >= 0)
    assert sorted(tree.children.ravel()) == list(range(2 * num - 2))  # every branch but the last is joined once
    assert np.all(tree.children.max(axis=1, initial=-1) < num + np.arange(num - 1))


@given(graphs())
def test_no_branches_cross_and_lower_ones_are_on_the_left(graph):
    tree = merge_tree(*graph)
    position = np.argsort(tree.order)
    assert sorted(tree.order) == list(range(len(graph[1])))
    seeds = branches(tree)
    for branch in seeds:
        assert list(position[branch]) == list(range(position[branch[0]], position[branch[0]] + len(branch)))
    for left, right in tree.children:
        assert graph[1][seeds[left]].min() <= graph[1][seeds[right]].min()


@given(graphs())
def test_components_are_those_of_the_graph_below_each_level(graph):
    heights, leaves = graph
    levels = np.arange(-2, 9, 0.5)
    expected = []
    for level in levels:
        some = np.flatnonzero(leaves <= level)
        expected.append(connected_components(heights[np.ix_(some, some)] <= level)[0] if len(some) else 0)
    got = components(heights, leaves, levels)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(components(heights, leaves, levels[::-1].copy()), got[::-1])


def test_two_networks_are_never_further_than_through_a_third(rng):
    meet = merge_tree(*random_graph(rng, 12)).minimax
    for i, j, k in itertools.permutations(range(12), 3):
        assert meet[i, j] <= max(meet[i, k], meet[k, j])


def test_merges_are_the_edges_of_the_least_spanning_tree(rng):
    heights, leaves = random_graph(rng, 20)
    edges = minimum_spanning_tree(heights)  # heights are positive: a 0 would be no edge
    np.testing.assert_array_equal(np.sort(edges.data), merge_tree(heights, leaves).height)


def test_relabelled_networks_make_the_same_tree(rng):
    heights, leaves = random_graph(rng, 15)
    tree, perm, levels = merge_tree(heights, leaves), rng.permutation(15), np.linspace(0, 2, 50)
    moved = heights[np.ix_(perm, perm)], leaves[perm]
    other = merge_tree(*moved)
    np.testing.assert_array_equal(other.minimax, tree.minimax[np.ix_(perm, perm)])
    np.testing.assert_array_equal(other.height, tree.height)
    np.testing.assert_array_equal(perm[other.order], tree.order)
    np.testing.assert_array_equal(components(*moved, levels), components(heights, leaves, levels))


def test_two_planted_valleys_are_two_blocks_joined_once():
    valley = np.array([0, 1, 1, 0, 1, 0])
    heights = symmetric(np.where(valley[:, None] == valley, 0.25, 4.0))
    tree = merge_tree(heights, np.array([0.1, 0.0, 0.2, 0.05, 0.2, 0.2]))
    assert valley[tree.order].tolist() == [1, 1, 1, 0, 0, 0]  # the lowest network is in valley 1
    assert tree.order[[0, 3]].tolist() == [1, 3]
    assert tree.height.tolist() == [0.25] * 4 + [4.0]
    np.testing.assert_array_equal(tree.minimax[np.ix_(valley == 0, valley == 1)], 4.0)
    assert components(heights, np.zeros(6), np.array([0.0, 0.2, 0.25, 3.9, 4.0])).tolist() == [6, 6, 2, 2, 1]


@pytest.mark.parametrize("height", [0.0, 1.5])
def test_equal_heights_merge_all_at_once(height):
    tree = merge_tree(symmetric(np.full((5, 5), height)), np.zeros(5))
    assert tree.height.tolist() == [height] * 4
    np.testing.assert_array_equal(tree.minimax, symmetric(np.full((5, 5), height)))
    assert sorted(tree.order) == [0, 1, 2, 3, 4]
    levels = np.array([-1, height / 2, height])
    assert components(tree.minimax, np.zeros(5), levels).tolist() == [0, 5 if height else 1, 1]


def test_one_network_is_a_tree_without_merges_and_two_have_one():
    one = merge_tree(np.array([[np.nan]]), np.array([0.5]))
    assert (one.children.shape, one.height.shape, one.order.tolist(), one.minimax.tolist()) == (
        (0, 2),
        (0,),
        [0],
        [[0.5]],
    )
    assert components(np.zeros((1, 1)), np.array([0.5]), np.array([0.4, 0.5])).tolist() == [0, 1]
    two = merge_tree(np.array([[0.0, 3.0], [3.0, 0.0]]), np.array([2.0, 1.0]))
    assert (two.children.tolist(), two.height.tolist(), two.order.tolist()) == ([[1, 0]], [3.0], [1, 0])
    assert two.minimax.tolist() == [[2.0, 3.0], [3.0, 1.0]]


def test_an_edge_below_its_ends_by_rounding_is_lifted_to_them():
    leaves = np.array([1.0, 0.5])
    tree = merge_tree(symmetric(np.full((2, 2), 1 - 1e-13)), leaves)
    assert tree.height.tolist() == [1.0]
    assert components(symmetric(np.full((2, 2), 1 - 1e-13)), leaves, np.array([1 - 1e-14, 1])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("heights", "leaves", "message"),
    [
        (np.zeros((0, 0)), [], "not empty"),
        ([[0, np.nan, 1], [np.nan, 0, 1], [1, 1, 0]], [0, 0, 0], "1 pairs of 3 networks .* measure all pairs"),
        ([[0, np.nan, 1], [1, 0, 1], [1, 1, 0]], [0, 0, 0], "1 pairs of 3"),
        ([[0, np.inf], [np.inf, 0]], [0, 0], "1 pairs of 2"),
        ([[0, 1], [1, 0]], [0, np.nan], r"leaves at \[1\] are not finite"),
        ([[0, 1], [2, 0]], [0, 0], "not symmetric"),
        ([[0, 2, 2], [2, 0, 1], [2, 1, 0]], [0, 0, 1.5], "between 1 and 2 is at most 1.0, below its higher end 1.5"),
    ],
)
def test_what_makes_no_tree_is_refused(heights, leaves, message):
    with pytest.raises(ValueError, match=message):
        merge_tree(np.array(heights, float), np.array(leaves, float))


def test_on_the_corners_of_a_cube_every_barrier_can_be_climbed_edge_by_edge(rng):
    """The line across m coordinates rises to m, a chain of edges never above 1."""
    barriers = barrier_matrices(Wells(), "squared_error", population(corners(3)), zero_targets(3))["train_loss"]
    apart = np.sum(corners(3)[:, None] != corners(3), axis=-1)
    np.testing.assert_allclose(barriers.top, apart, atol=1e-12)
    tree = merge_tree(barriers.top, np.diag(barriers.top))
    np.testing.assert_allclose(tree.minimax, 1 - np.eye(8), atol=1e-12)
    np.testing.assert_array_equal(through_others(barriers.chord), merge_tree(barriers.chord, np.zeros(8)).minimax)
    gain = minimax_gain(barriers.chord, rng=rng)
    assert gain is not None
    assert (gain.value, gain.n) == (0.5, 8)  # of 28 pairs 12 are 1 apart, 12 are 2, 4 are 3
    assert gain.ci is not None
    assert 0 < gain.ci[0] <= 0.5 <= gain.ci[1] <= 1


def test_through_others_keeps_the_diagonal_and_is_never_above_the_direct_way(rng):
    heights, leaves = random_graph(rng, 10)
    direct = heights + np.diag(leaves)
    chained = through_others(direct)
    np.testing.assert_array_equal(np.diag(chained), leaves)
    assert np.all(chained <= direct)
    assert np.any(chained < direct)


def test_the_gain_of_a_resample_is_that_of_its_own_seeds():
    """Barriers of the drawn seeds alone, pairs written out; the interval is moved to the gain of all."""
    rng = np.random.default_rng(5)
    direct = symmetric(rng.random((5, 5)))

    def gain(seeds):
        drawn = np.unique(seeds)
        chained = np.full((5, 5), np.nan)
        chained[np.ix_(drawn, drawn)] = minimax_of_all_paths(direct[np.ix_(drawn, drawn)], np.zeros(len(drawn)))
        pairs = [(i, j) for i, j in itertools.combinations(seeds, 2) if i != j]
        above, below = (np.median([matrix[pair] for pair in pairs]) for matrix in (chained, direct))
        return above / below

    def centred(resamples):
        gains = np.array([gain(seeds) for seeds in resamples])
        return np.minimum(gains / np.median(gains) * gain(np.arange(5)), 1)

    got = minimax_gain(direct, rng=np.random.default_rng(1))
    assert got is not None
    np.testing.assert_allclose(got.value, gain(np.arange(5)), rtol=1e-14)
    expected = bootstrap_seeds(centred, 5, rng=np.random.default_rng(1), pairs=True)
    assert got.ci is not None
    assert expected is not None
    np.testing.assert_allclose(got.ci, expected, rtol=1e-12)


@pytest.mark.slow
def test_the_interval_of_the_gain_covers_that_of_other_populations(rng, monkeypatch):
    module = importlib.import_module("analysis.connectivity.merge_tree")
    monkeypatch.setattr(module, "bootstrap_seeds", functools.partial(bootstrap_seeds, num_resamples=100))
    draw = lambda: symmetric(rng.random((12, 12)))  # noqa: E731
    pairs = np.triu_indices(12, 1)
    truth = np.mean([np.median(through_others(d)[pairs]) / np.median(d[pairs]) for d in (draw() for _ in range(500))])
    intervals = [gain.ci for gain in (minimax_gain(draw(), rng=rng) for _ in range(25)) if gain and gain.ci]
    assert len(intervals) == 25
    assert sum(low <= truth <= high for low, high in intervals) >= 20  # 24 are aimed at


def test_without_pairs_or_barriers_there_is_no_gain(rng):
    assert minimax_gain(np.zeros((1, 1)), rng=rng) is None
    assert minimax_gain(np.zeros((5, 5)), rng=rng) is None
    two = minimax_gain(1 - np.eye(2), rng=rng)
    assert two is not None
    assert (two.value, two.ci) == (1.0, None)
    equal = minimax_gain(1 - np.eye(6), rng=rng)
    assert equal is not None
    assert (equal.value, equal.ci) == (1.0, (1.0, 1.0))


def test_barriers_below_0_have_no_ratio(rng):
    direct = symmetric(np.full((3, 3), -0.5)) - np.eye(3)
    with pytest.raises(ValueError, match=r"a barrier is -0\.5: a ratio takes barriers of at least 0"):
        minimax_gain(direct, rng=rng)
