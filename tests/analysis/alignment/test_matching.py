import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from small_networks import (
    MATCHERS,
    best_of_all,
    draw,
    inner,
    matcher,
    outputs,
    pick,
    relabel,
    repeat,
    similarity,
    theta,
)

from analysis.alignment import (
    align_to_mean,
    align_to_medoid,
    align_to_reference,
    align_universe,
    match_frank_wolfe,
    match_pairs,
    match_weights,
)
from analysis.alignment.matching import Pairs
from wspace import MLP, stack_params
from wspace import symmetry as symmetries
from wspace.errors import SymmetryError
from wspace.symmetry import Axis, Element, Symmetry, Units

ACTIVATIONS = ["gelu", "identity", "relu", "tanh"]
HIDDEN = (6, 5, 7, 4)
EVERY = [(a, bias, depth) for a in ACTIVATIONS for bias in (True, False) for depth in (1, 2, 3, 4)]
HALF = [("relu", True, 2), ("tanh", False, 1), ("identity", True, 4), ("gelu", False, 3)]
OTHER = [("relu", False, 3), ("tanh", True, 2), ("identity", False, 4), ("gelu", True, 1)]
PLANTED = {
    "weights": EVERY, "frank_wolfe": EVERY, "correlation": HALF, "inner_product": OTHER, "straight_through": OTHER,
}  # fmt: skip
OF_WEIGHTS = {"weights": match_weights, "frank_wolfe": match_frank_wolfe}


def returned(element, plant):
    return symmetries.share_fixed(symmetries.compose(element, plant))


@pytest.mark.parametrize(
    ("name", "activation", "bias", "depth"),
    [(name, *case) for name, cases in PLANTED.items() for case in cases],
)
def test_every_matcher_finds_every_unit_of_a_relabelled_network(rng, name, activation, bias, depth):
    model = MLP((3, *HIDDEN[:depth], 2), activation, bias)
    params, x = draw(model, rng), 2 * rng.standard_normal((50, 3))
    plant, moved = relabel(model, params, rng, 2)
    y = outputs(model, params, x)
    match = matcher(name, model, rng, x, y)(model.symmetry, params, moved)
    np.testing.assert_array_equal(returned(match.element, plant), 1)
    aligned = symmetries.act(model.symmetry, match.element, moved)
    for found, leaf in zip(jax.tree.leaves(aligned), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(found, np.broadcast_to(leaf, found.shape))
    assert np.all(match.converged)


@pytest.mark.parametrize(
    ("name", "activation"), [*((name, "tanh") for name in MATCHERS), ("weights", "relu"), ("frank_wolfe", "relu")]
)
def test_every_matcher_leaves_the_functions_alone_and_reports_its_objective(rng, name, activation):
    model, x = MLP((3, 5, 4, 2), activation), rng.standard_normal((20, 3))
    reference, params = draw(model, rng), draw(model, rng, (3,))
    y = outputs(model, reference, x)
    match = matcher(name, model, rng, x, y)(model.symmetry, reference, params)
    aligned = symmetries.act(model.symmetry, match.element, params)
    for i in range(3):
        before, after = (outputs(model, pick(p, i), x) for p in (params, aligned))
        np.testing.assert_allclose(after, before, rtol=1e-11, atol=1e-12)
        assert not np.allclose(theta(pick(aligned, i)), theta(pick(params, i)))
        assert np.all(np.diff(match.history[i][: -1 if name == "frank_wolfe" else None]) >= 0)
        np.testing.assert_allclose(match.history[i][-1], match.objective[i], rtol=1e-10)
        if name in ("weights", "frank_wolfe"):
            np.testing.assert_allclose(match.objective[i], inner(reference, pick(aligned, i)), rtol=1e-12)
    np.testing.assert_array_equal(match.objective, match.restarts.max(axis=1))
    spread = (match.restarts.max(axis=1) - match.restarts.min(axis=1)) / np.abs(match.objective)
    np.testing.assert_allclose(match.spread, spread)


@pytest.mark.parametrize("name", MATCHERS)
def test_stacked_references_are_matched_pair_by_pair(rng, name):
    model, x = MLP((3, 5, 4, 2), "tanh"), rng.standard_normal((20, 3))
    reference, params = draw(model, rng, (3,), np.float32), draw(model, rng, (3,), np.float32)
    y = rng.standard_normal((20, 2))
    of = lambda a, b: matcher(name, model, np.random.default_rng(1), x, y)(model.symmetry, a, b)  # noqa: E731
    together, single = of(reference, params), of(pick(reference, 0), params)
    np.testing.assert_allclose(single.objective[0], together.objective[0], rtol=1e-5)
    of_jax = of(*(jax.tree.map(jax.numpy.asarray, p) for p in (reference, params)))
    for got, expected in zip(jax.tree.leaves(of_jax.element), jax.tree.leaves(together.element), strict=True):
        np.testing.assert_array_equal(got, expected)


def hand_similarity(a, b):
    (first, second), (other, last) = a, b
    return (
        first["weight"].T @ other["weight"]
        + np.outer(first["bias"], other["bias"])
        + second["weight"] @ last["weight"].T
    )


@settings(max_examples=15)
@given(st.integers(1, 5), st.sampled_from(["relu", "tanh"]), st.integers(0, 999))
def test_one_hidden_layer_is_one_assignment(num, activation, seed):
    rng = np.random.default_rng(seed)
    num = min(num, 4) if activation == "tanh" else num
    model = MLP((2, num, 3), activation)
    a, b = draw(model, rng), draw(model, rng, (2,))
    match = match_weights(model.symmetry, a, b, rng=rng)
    for i in range(2):
        one = pick(b, i)
        score = hand_similarity(a, one)
        score = np.abs(score) if activation == "tanh" else score
        best = score[linear_sum_assignment(score, maximize=True)].sum() + a[1]["bias"] @ one[1]["bias"]
        np.testing.assert_allclose(match.objective[i], best, rtol=1e-10)
        np.testing.assert_allclose(best_of_all(model.symmetry, a, one), best, rtol=1e-10)
        np.testing.assert_allclose(match.restarts[i], best, rtol=1e-10)


@pytest.mark.parametrize("name", ["weights", "frank_wolfe"])
@pytest.mark.parametrize(("activation", "hidden"), [("relu", (4, 4)), ("relu", (3, 4)), ("tanh", (3, 2))])
def test_two_hidden_layers_are_never_matched_better_than_the_best_of_all_pairs_of_perms(name, activation, hidden):
    model, reached = MLP((2, *hidden, 2), activation), 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a, b = draw(model, rng), draw(model, rng)
        num_restarts = 30 if name == "weights" else 4
        match = OF_WEIGHTS[name](model.symmetry, a, repeat(b, 1), rng=rng, num_restarts=num_restarts)
        best = best_of_all(model.symmetry, a, b)
        assert match.restarts.max() <= best + 1e-9
        reached += match.objective[0] >= best - 1e-9
        element = Element.__getitem__(match.element, 0)
        for layer, units in enumerate(model.symmetry.layers):
            now = similarity(model.symmetry, a, b, element, layer)
            score = np.abs(now) if units.sign else now
            improved = score[linear_sum_assignment(score, maximize=True)].sum()
            current = element.factors[layer] @ now[np.arange(units.num), element.perms[layer]]
            np.testing.assert_allclose(current, improved, rtol=1e-10)
    assert reached >= (6 if name == "weights" else 3)


@settings(max_examples=15)
@given(st.integers(1, 6), st.sampled_from(["relu", "tanh", "identity"]), st.booleans(), st.integers(0, 999))
def test_the_best_match_of_a_hidden_layer_does_not_depend_on_how_it_is_labelled(num, activation, bias, seed):
    rng = np.random.default_rng(seed)
    model = MLP((2, num, 3), activation, bias)
    a, b = draw(model, rng), draw(model, rng)
    _, moved = relabel(model, b, rng, 3)
    of = lambda reference, params: match_weights(model.symmetry, reference, params, rng=rng).objective  # noqa: E731
    np.testing.assert_allclose(of(a, moved), of(a, repeat(b, 3)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of(moved, repeat(a, 3)), of(a, repeat(b, 3)), rtol=1e-9, atol=1e-12)


def test_the_distance_is_what_the_objective_says(rng):
    model = MLP((3, 5, 4, 2))
    a, b = draw(model, rng, dtype=np.float32), draw(model, rng, (2,), np.float32)
    match = match_weights(model.symmetry, a, b, rng=rng)
    aligned, raw = (theta(p, 1) - theta(a) for p in (symmetries.act(model.symmetry, match.element, b), b))
    squares = np.square(theta(a)).sum() + np.square(theta(b, 1)).sum(axis=1)
    np.testing.assert_allclose(np.square(aligned).sum(axis=1), squares - 2 * match.objective, rtol=1e-10)
    assert np.all(np.square(aligned).sum(axis=1) < np.square(raw).sum(axis=1))


def test_a_given_start_is_the_only_one_and_never_made_worse(rng):
    model = MLP((3, 5, 4, 2), "identity")
    a, b = draw(model, rng), draw(model, rng, (20,))
    start = symmetries.random_element(model.symmetry, rng, (20,))
    signs = start._replace(factors=tuple(np.sign(f) for f in start.factors))  # scales are not matched
    match = match_weights(model.symmetry, a, b, rng=rng, start=start)
    assert match.restarts.shape == (20, 1)
    before = theta(symmetries.act(model.symmetry, signs, b), 1) @ theta(a)
    assert np.all(match.objective > before - 1e-9)
    again = match_weights(model.symmetry, a, b, rng=rng, start=match.element)
    np.testing.assert_array_equal(again.sweeps, 1)
    np.testing.assert_allclose(again.objective, match.objective, rtol=1e-12)


def test_one_generator_gives_one_match_on_any_number_of_threads_and_more_restarts_are_no_worse(rng):
    model = MLP((3, 5, 4, 3, 2))
    a, b = draw(model, rng), draw(model, rng, (8,))
    of = lambda num, threads: match_weights(  # noqa: E731
        model.symmetry, a, b, rng=np.random.default_rng(3), num_restarts=num, num_threads=threads
    )
    first, second = of(6, 1), of(6, 3)
    for got, expected in zip(jax.tree.leaves(first.element), jax.tree.leaves(second.element), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert first.restarts.shape == (8, 6)
    fewer = of(2, None)
    assert np.all(first.objective >= fewer.objective - 1e-9)
    assert np.any(first.objective > fewer.objective + 1e-3)
    np.testing.assert_allclose(of(1, None).restarts[:, 0], fewer.restarts[:, 0], rtol=1e-10)


def test_signs_are_found_only_where_they_are_free(rng):
    for activation, free in (("relu", False), ("gelu", False), ("tanh", True), ("identity", True)):
        model = MLP((3, 8, 8, 2), activation)  # type: ignore[arg-type]
        match = match_weights(model.symmetry, draw(model, rng), draw(model, rng, (3,)), rng=rng)
        for factors in match.element.factors:
            assert set(np.unique(factors)) == ({-1, 1} if free else {1})


@pytest.mark.parametrize("name", MATCHERS)
def test_a_network_without_hidden_layers_has_nothing_to_match(rng, name):
    model, x, y = MLP((3, 2)), rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    a, b = draw(model, rng), draw(model, rng, (2,))
    match = matcher(name, model, rng, x, y)(model.symmetry, a, b)
    assert match.element == ((), ())
    if name in ("weights", "frank_wolfe"):
        np.testing.assert_allclose(match.objective, theta(b, 1) @ theta(a), rtol=1e-12)


def spoil(params):
    params[0]["weight"].flat[-1] = np.nan
    return params


@pytest.mark.parametrize("name", MATCHERS)
def test_every_matcher_refuses_what_it_cannot_match(rng, name):
    model, x, y = MLP((3, 5, 4, 2)), rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    match, good = matcher(name, model, rng, x, y), lambda *batch: draw(model, rng, batch)
    others = [MLP((3, 5, 3, 2)), MLP((3, 5, 4, 2), bias=False), MLP((3, 5, 4, 4, 2))]
    for other in others:
        with pytest.raises(ValueError, match="same architecture is expected"):
            match(model.symmetry, draw(other, rng), good(2))
    for reference in (good(3), good(2, 2)):
        with pytest.raises(ValueError, match="same architecture is expected"):
            match(model.symmetry, reference, good(2))
    with pytest.raises(ValueError, match=r"0\.weight of a reference is not finite"):
        match(model.symmetry, spoil(good()), good(2))
    with pytest.raises(ValueError, match=r"0\.weight of a network that is moved is not finite"):
        match(model.symmetry, good(), spoil(good(2)))
    absent = Symmetry((Units(5, (Axis("0.weights", -1),)), Units(4, (Axis("1.weight", -1),))))
    with pytest.raises(SymmetryError, match=r"declares the leaf '0\.weights'"):
        match(absent, good(), good(2))
    with pytest.raises(SymmetryError, match="declares 6 units"):
        match(MLP((3, 6, 4, 2)).symmetry, good(), good(2))


def test_populations_of_one_are_refused(rng):
    model, params = MLP((3, 4, 2)), draw(MLP((3, 4, 2)), rng, (1,))
    match = matcher("weights", model, rng, None, None)
    for align in (
        lambda: align_to_reference(model.symmetry, params, 0, matcher=match),
        lambda: align_to_medoid(model.symmetry, params, matcher=match),
        lambda: align_to_mean(model.symmetry, params, matcher=match),
        lambda: align_universe(model.symmetry, params, rng=rng),
        lambda: match_pairs(model.symmetry, params, matcher=match, name="weights"),
    ):
        with pytest.raises(ValueError, match="takes at least two networks, got 1"):
            align()


def test_pairs_are_float64_leaves_by_name(rng):
    model = MLP((3, 4, 2))
    networks = [draw(model, rng, dtype=np.float32) for _ in range(3)]
    pairs = Pairs(model.symmetry, networks[0], stack_params(networks))
    assert len(pairs) == 3
    for i, (a, b) in enumerate(pairs):
        assert list(a) == list(b) == ["0.bias", "0.weight", "1.bias", "1.weight"]
        assert all(leaf.dtype == np.float64 for leaf in (*a.values(), *b.values()))
        np.testing.assert_array_equal(a["1.weight"], networks[0][1]["weight"])
        np.testing.assert_array_equal(b["0.bias"], networks[i][0]["bias"])
