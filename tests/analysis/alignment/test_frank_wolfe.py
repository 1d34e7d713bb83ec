import numpy as np
import pytest
from small_networks import draw, grouped, inner, leaves, matrix, relabel

from analysis.alignment import match_frank_wolfe, match_weights
from analysis.alignment.ascent import Similarities
from analysis.alignment.assignment import assign
from analysis.alignment.frank_wolfe import _value_and_gradient
from wspace import MLP, stack_params
from wspace import symmetry as symmetries


def doubly_stochastic(group, rng):
    """Mixtures of perms."""
    mixture = lambda n: np.mean([np.eye(n)[rng.permutation(n)] for _ in range(3)], axis=0)  # noqa: E731
    return [mixture(units.num) for units in group.layers]


def soft_value(group, a, b, soft):
    """<a, M b> with dense matrices on every axis, over the leaves that hold units."""
    total = 0.0
    for name in a:
        moved, held = b[name], False
        for dense, units in zip(soft, group.layers, strict=True):
            for axis in units.axes:
                if axis.leaf == name:
                    moved, held = np.moveaxis(np.tensordot(dense, moved, (1, axis.axis)), 0, axis.axis), True
        total += float(np.vdot(a[name], moved)) if held else 0.0
    return total


def test_the_value_is_that_of_dense_matrices_and_the_gradient_its_finite_differences(rng):
    group, a, b = grouped(), leaves(rng), leaves(rng)
    similarities, soft = Similarities(group, a, b), doubly_stochastic(grouped(), rng)
    value, gradient = _value_and_gradient(similarities, soft)
    np.testing.assert_allclose(value, soft_value(group, a, b, soft), rtol=1e-12)
    for layer, units in enumerate(group.layers):
        for index in np.ndindex(units.num, units.num):
            sides = []
            for step in (0.5, -0.5):  # f is linear in each layer's matrix
                moved = [m.copy() for m in soft]
                moved[layer][index] += step
                sides.append(soft_value(group, a, b, moved))
            np.testing.assert_allclose(gradient[layer][index], sides[0] - sides[1], rtol=1e-9, atol=1e-11)


def test_the_value_of_labels_is_their_inner_product_but_for_what_holds_no_units(rng):
    group, a, b = grouped(sign=(True, True, True)), leaves(rng), leaves(rng)
    element = symmetries.random_element(group, rng)
    soft = [matrix(p, f) for p, f in zip(element.perms, element.factors, strict=True)]
    value, _ = _value_and_gradient(Similarities(group, a, b), soft)
    expected = inner(a, symmetries.act(group, element, b))
    for name in ("loose", "recurrent", "triple"):  # of no layer here
        expected -= np.vdot(a[name], b[name])
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_a_step_goes_to_the_highest_point_of_its_segment():
    group, inside = grouped(sign=(False, False, False)), 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, b = leaves(rng), leaves(rng)
        match = match_frank_wolfe(
            group, a, {name: leaf[None] for name, leaf in b.items()}, rng=rng, num_restarts=1, max_iterations=1
        )
        centre = [np.full((u.num, u.num), 1 / u.num) for u in group.layers]
        _, gradient = _value_and_gradient(Similarities(group, a, b), centre)
        toward = [matrix(*assign(g)[:2]) for g in gradient]
        along = lambda t, a=a, b=b, c=centre, d=toward: soft_value(  # noqa: E731
            group, a, b, [(1 - t) * m + t * v for m, v in zip(c, d, strict=True)]
        )
        values = [along(t) for t in np.linspace(0, 1, 1001)]
        inside += 0 < np.argmax(values) < 1000
        np.testing.assert_allclose(match.history[0][0], max(values), atol=1e-4)
    assert inside >= 2


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_soft_objective_never_falls_and_its_end_is_a_local_maximum(activation, bias):
    model = MLP((3, 6, 5, 4, 2), activation, bias)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        a, b = draw(model, rng), draw(model, rng, (3,))
        match = match_frank_wolfe(model.symmetry, a, b, rng=rng)
        for history, sweeps in zip(match.history, match.sweeps, strict=True):
            assert len(history) == sweeps > 2
            soft = history[:-1]
            assert np.all(np.diff(soft) >= -1e-12 * np.abs(soft[:-1]))
        again = match_weights(model.symmetry, a, b, rng=rng, start=match.element)
        np.testing.assert_allclose(again.objective, match.objective, rtol=1e-12)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_layers_between_layers_that_are_at_0_wait_for_their_neighbours(activation):
    """Without biases and with signs, the inner layers have no gradient at the start."""
    model = MLP((3, 6, 5, 7, 4, 2), activation, bias=False)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a = draw(model, rng)
        plant, moved = relabel(model, a, rng, 2)
        match = match_frank_wolfe(model.symmetry, a, moved, rng=rng, num_restarts=1)
        np.testing.assert_array_equal(symmetries.share_fixed(symmetries.compose(match.element, plant)), 1)


def test_an_iteration_limit_is_reported(rng):
    model = MLP((3, 6, 5, 4, 2))
    match = match_frank_wolfe(model.symmetry, draw(model, rng), draw(model, rng, (3,)), rng=rng, max_iterations=2)
    assert not np.any(match.converged)
    np.testing.assert_array_equal(match.sweeps, 3)


@pytest.mark.parametrize("shared", ["triple", "recurrent"])
def test_leaves_shared_by_three_layers_or_by_a_layer_with_itself_are_refused(rng, shared):
    a, b = leaves(rng), stack_params([leaves(rng), leaves(rng)])
    with pytest.raises(ValueError, match="at most two axes of units, of different layers"):
        match_frank_wolfe(grouped(**{shared: True}), a, b, rng=rng)
    assert match_weights(grouped(**{shared: True}), a, b, rng=rng).converged.all()
