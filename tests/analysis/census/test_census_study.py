import jax
import numpy as np
import pytest
from problems import Wells, zero_targets
from problems_census import dataset, inits, stacked, xor

from analysis.census import census, certify
from analysis.census.study import outputs
from analysis.curvature import Objective
from wspace.models import MLP
from wspace.symmetry import Axis, Symmetry, Units


def test_wells_are_counted_with_and_without_their_symmetry(rng):
    """All corners of a cube, of objective 0: eight minima, one modulo permutations and signs, which make eight copies."""
    objective = Objective(Wells(), "squared_error", zero_targets(3))
    starts = stacked(*rng.uniform(-1.5, 1.5, (120, 3)))
    plain = census(objective, starts, symmetry=Symmetry(()), rng=rng)
    assert plain.certificates.counts()["strict minimum"] == 120
    assert plain.num_minima == 8
    assert not plain.by_function
    np.testing.assert_allclose(plain.objectives, 0, atol=1e-15)
    np.testing.assert_array_equal(plain.log10_copies, np.zeros(8))
    assert plain.shares is not None
    assert plain.shares.count.sum() == 120
    assert plain.unseen is not None
    assert plain.unseen.value == 8
    signs = np.sign(plain.polished.params["theta"])
    same = np.all(signs[:, None] == signs[None], axis=2)
    np.testing.assert_array_equal(plain.labels[:, None] == plain.labels[None], same)
    group = Symmetry((Units(3, (Axis("theta", -1),), sign=True),))
    modulo = census(objective, starts, symmetry=group, rng=rng)
    assert modulo.num_minima == 1
    np.testing.assert_allclose(modulo.log10_copies, np.log10(8), rtol=1e-12)
    assert modulo.coverage is not None
    assert modulo.coverage.value == 1


def test_restarts_that_are_not_certified_are_left_out(rng):
    objective = Objective(Wells(), "squared_error", zero_targets(2))
    starts = stacked([0.9, 0.9], [0.0, 0.0], [1.1, 0.9], [0.0, 1.0], [-0.8, 1.2])  # the second and fourth are saddles
    found = census(objective, starts, symmetry=Symmetry(()), rng=rng)
    assert found.certified.tolist() == [0, 2, 4]
    assert found.labels.tolist() in ([0, 0, 1], [1, 1, 0])
    assert found.num_minima == 2
    assert found.representatives.tolist() in ([0, 4], [2, 4], [4, 0], [4, 2])
    nothing = census(objective, stacked([0.0, 0.0]), symmetry=Symmetry(()), rng=rng)
    assert nothing.num_minima == 0
    assert nothing.shares is nothing.discovery is nothing.unseen is nothing.coverage is nothing.distinct is None


def test_continua_are_counted_by_function(rng):
    """Two params where one would do: minima are lines of weights, and one function each."""
    x = rng.standard_normal((30, 2))
    model = MLP((2, 1, 1), "identity", bias=False)
    objective = Objective(model, "squared_error", dataset(np.repeat(x[:, :1], 2, axis=1), x[:, :1] * 2))
    found = census(objective, inits(model, 12), symmetry=model.symmetry, rng=rng)
    assert len(found.certified) >= 10
    assert found.by_function
    assert found.num_minima == 1


@pytest.mark.slow
def test_minima_of_xor_come_in_the_sets_that_its_points_ask_for(rng):
    """Swapping or flipping the inputs of a minimum gives a minimum of the same loss, which the census knows as another."""
    model = MLP((2, 3, 2), "tanh", init_kind="glorot")
    objective = Objective(model, "cross_entropy", xor(), l2=1e-3)
    found = census(objective, inits(model, 250), symmetry=model.symmetry, rng=rng)
    assert len(found.certified) == 250
    assert found.num_minima == 8
    assert np.sum(np.diff(found.objectives) > 1e-6) == 1
    best = jax.tree.map(lambda leaf: leaf[found.representatives[:4]], found.polished.params)
    turned = (best[0] | {"weight": best[0]["weight"][:, ::-1] * np.array([[1.0], [-1.0]])}, best[1])
    swapped = (turned[0], jax.tree.map(lambda leaf: leaf[..., ::-1], turned[1]))  # flipping one input swaps the classes
    again = certify(objective, swapped, symmetry=model.symmetry, rng=rng)
    assert again.labels == ("strict minimum",) * 4
    np.testing.assert_allclose(again.values, found.objectives[:4], rtol=1e-10)
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), best, swapped)
    together = census(objective, both, symmetry=model.symmetry, rng=rng)
    assert together.num_minima == 4


@pytest.mark.slow
def test_minima_of_xor_grow_with_units_and_shrink_with_the_penalty(rng):
    """Mehta et al. 2018, 1804.02411."""
    counts = {}
    for units, l2 in ((2, 1e-4), (4, 1e-4), (6, 1e-4), (6, 1e-2), (6, 0.3)):
        model = MLP((2, units, 2), "tanh", init_kind="glorot")
        objective = Objective(model, "cross_entropy", xor(), l2=l2)
        found = census(objective, inits(model, 400), symmetry=model.symmetry, rng=rng)
        assert len(found.certified) >= 395
        counts[units, l2] = found.num_minima
    assert counts[2, 1e-4] < counts[4, 1e-4] < counts[6, 1e-4]
    assert counts[6, 1e-4] > counts[6, 1e-2] > counts[6, 0.3] == 1


def test_functions_are_compared_without_the_mean_of_logits(rng):
    model = MLP((2, 3, 2), "tanh")
    objective = Objective(model, "cross_entropy", xor())
    params = inits(model, 3)
    shifted = (params[0], params[1] | {"bias": params[1]["bias"] + 5.0})
    np.testing.assert_allclose(outputs(objective, params), outputs(objective, shifted), atol=1e-12)
    assert outputs(objective, params).shape == (3, 4, 2)
