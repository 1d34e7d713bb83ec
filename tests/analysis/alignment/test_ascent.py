import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from small_networks import best_of_all, grouped, inner, leaves, similarity

from analysis.alignment.ascent import Labels, Similarities, as_element, as_labels, climb, contract
from wspace import symmetry as symmetries

GROUPS = {
    "bilinear": grouped(),
    "signed": grouped(sign=(True, True, True)),
    "recurrent": grouped(recurrent=True),
    "triple": grouped(triple=True, sign=(True, False, True)),
    "both": grouped(recurrent=True, triple=True, sign=(True, True, True)),
}
every_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
NEIGHBOURS = ({1}, {0, 2}, {1})  # layers of `grouped()` that share a leaf


def random_labels(group, rng):
    return as_labels(symmetries.random_element(group, rng, kinds=("perm", "sign")))


def changed(labels, signed, rng):
    """Two units swapped, one flipped, or all anew."""
    perm, signs = labels.perm.copy(), labels.signs.copy()
    kind = rng.choice(["swap", "flip", "all"])
    if kind == "swap":
        i, j = rng.choice(len(perm), 2, replace=False)
        perm[[i, j]] = perm[[j, i]]
    elif kind == "flip" and signed:
        signs[rng.integers(len(perm))] *= -1
    else:
        perm = rng.permutation(perm)
    return Labels(perm, signs)


@every_group
def test_similarities_kept_up_to_date_equal_those_computed_anew(rng, group):
    a, b = leaves(rng), leaves(rng)
    kept, labels = Similarities(group, a, b), random_labels(group, rng)
    for _ in range(200):
        layer = int(rng.integers(3))
        labels[layer] = changed(labels[layer], group.layers[layer].sign, rng)
        asked = int(rng.integers(3))
        expected = similarity(group, a, b, as_element(labels), asked)
        np.testing.assert_allclose(kept.of(asked, labels), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(Similarities(group, a, b).of(asked, labels), expected, rtol=0, atol=1e-12)
        if rng.random() < 0.2:
            moved = symmetries.act(group, as_element(labels), b)
            np.testing.assert_allclose(kept.value(labels), inner(a, moved), rtol=0, atol=1e-11)


@every_group
def test_layers_without_labels_add_nothing(rng, group):
    a, b = leaves(rng), leaves(rng)
    kept = Similarities(group, a, b)
    for _ in range(60):
        labels = random_labels(group, rng)
        unlabelled = {layer for layer in range(3) if rng.random() < 0.5}
        partial = [None if layer in unlabelled else x for layer, x in enumerate(labels)]
        for layer in rng.permutation(3).tolist():
            expected = similarity(group, a, b, as_element(labels), layer, unlabelled)
            np.testing.assert_allclose(kept.of(layer, partial), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sign", [(False, False, False), (True, True, True)])
def test_a_layer_is_pending_exactly_when_its_neighbours_have_changed(rng, sign):
    group = grouped(sign=sign)
    kept, seen = Similarities(group, leaves(rng), leaves(rng)), {}
    labels: list[Labels | None] = [*random_labels(group, rng)]
    for _ in range(300):
        layer = int(rng.integers(3))
        if rng.random() < 0.5:
            kept.of(layer, labels)
            seen[layer] = list(labels)
        else:
            labels[layer] = None if rng.random() < 0.2 else random_labels(group, rng)[layer]
        for asked, before in seen.items():
            assert kept.pending(asked, labels) == any(before[i] is not labels[i] for i in NEIGHBOURS[asked])


def test_what_is_linear_and_bilinear():
    rng = np.random.default_rng(0)
    of = lambda name: Similarities(GROUPS[name], leaves(rng), leaves(rng))  # noqa: E731
    assert {name for name in GROUPS if of(name).bilinear} == {"bilinear", "signed"}
    assert {name for name in GROUPS if not of(name).linear(2)} == {"recurrent", "both"}
    assert all(of(name).linear(layer) for name in GROUPS for layer in (0, 1))


@every_group
def test_the_value_is_the_inner_product_of_the_reference_and_the_moved_network(rng, group):
    a, b = leaves(rng), leaves(rng)
    labels = random_labels(group, rng)
    moved = symmetries.act(group, as_element(labels), b)
    np.testing.assert_allclose(Similarities(group, a, b).value(labels), inner(a, moved), rtol=1e-12)


@every_group
@pytest.mark.parametrize("start", ["inputs", "outputs", "random"])
def test_a_climb_never_falls_and_ends_where_no_layer_can_be_improved(group, start):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, b = leaves(rng), leaves(rng)
        similarities = Similarities(group, a, b)
        begin = random_labels(group, rng) if start == "random" else start
        end = climb(similarities, begin, rng)
        assert end.converged
        assert np.all(np.diff(end.history) >= 0)
        if start == "random":
            assert end.history[0] >= similarities.value(begin) - 1e-12
        element = as_element(end.labels)
        np.testing.assert_allclose(end.objective, inner(a, symmetries.act(group, element, b)), rtol=1e-12)
        np.testing.assert_allclose(end.history[-1], end.objective, rtol=1e-10)
        for layer, units in enumerate(group.layers):
            if similarities.linear(layer):
                now = similarity(group, a, b, element, layer)
                score = np.abs(now) if units.sign else now
                best = score[linear_sum_assignment(score, maximize=True)].sum()
                assert (
                    best <= np.vdot(now, np.diag(end.labels[layer].signs)[:, np.argsort(end.labels[layer].perm)]) + 1e-9
                )


@pytest.mark.parametrize("shared", ["", "recurrent", "triple"])
def test_climbs_from_everywhere_reach_the_best_of_all_elements_and_never_pass_it(shared):
    group = grouped(**{shared: True} if shared else {})
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a, b = leaves(rng), leaves(rng)
        similarities, best = Similarities(group, a, b), best_of_all(group, a, b)
        starts = ["inputs", "outputs", *(random_labels(group, rng) for _ in range(60))]
        ends = [climb(similarities, start, rng).objective for start in starts]
        np.testing.assert_allclose(max(ends), best, rtol=1e-12)


@pytest.mark.parametrize("name", ["bilinear", "signed", "triple"])
def test_a_planted_relabelling_is_found_and_left_alone(rng, name):
    group, a = GROUPS[name], leaves(rng)
    plant = symmetries.random_element(group, rng, kinds=("perm", "sign"))
    b = symmetries.act(group, plant, a)
    answer = as_labels(symmetries.invert(plant))
    similarities = Similarities(group, a, b)
    ends = [climb(similarities, start, rng) for start in ("inputs", "outputs", answer)]
    assert len(ends[2].history) == 1
    for end in ends:
        np.testing.assert_allclose(end.objective, inner(a, a), rtol=1e-12)
        returned = symmetries.compose(as_element(end.labels), plant)
        for layer, (perm, factor) in enumerate(zip(returned.perms, returned.factors, strict=True)):
            assert np.array_equal(perm, np.arange(group.layers[layer].num))
            assert np.all(factor == 1)


@every_group
def test_a_climb_does_not_depend_on_those_before_it(rng, group):
    """`outputs` after `inputs`: the second one begins without labels, whatever the first one ended with."""
    for seed in range(10):
        a, b = leaves(rng), leaves(rng)
        used = Similarities(group, a, b)
        for start in ("inputs", "outputs", "inputs", random_labels(group, rng)):
            got, expected = (climb(s, start, np.random.default_rng(seed)) for s in (used, Similarities(group, a, b)))
            for x, y in zip(got.labels, expected.labels, strict=True):
                np.testing.assert_array_equal(x.perm, y.perm)
                np.testing.assert_array_equal(x.signs, y.signs)
            np.testing.assert_allclose(got.history, expected.history, rtol=1e-12)


@pytest.mark.parametrize("rest", [1, 3])
def test_contraction_sums_over_the_first_and_the_last_axis(rng, rest):
    a, b = rng.standard_normal((4, 3, rest)), rng.standard_normal((4, 5, rest))
    np.testing.assert_allclose(contract(a, b), np.einsum("kir,kjr->ij", a, b), rtol=1e-12, atol=1e-14)


def test_labels_keep_the_signs_of_an_element_and_drop_its_scales(rng):
    group = symmetries.Symmetry((symmetries.Units(4, (), sign=True, scale=True),))
    element = symmetries.random_element(group, rng)
    (labels,) = as_labels(element)
    np.testing.assert_array_equal(labels.perm, element.perms[0])
    np.testing.assert_array_equal(labels.signs, np.sign(element.factors[0]))
    back = as_element([labels])
    assert np.array_equal(back.perms[0], labels.perm)
    assert np.array_equal(back.factors[0], labels.signs)
