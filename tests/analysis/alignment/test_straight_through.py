import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from small_networks import draw, outputs, pick

from analysis.alignment import match_straight_through, match_weights
from wspace import MLP
from wspace import symmetry as symmetries


def midpoint_losses(model, kind, reference, params, element, x, y):
    moved, losses = symmetries.act(model.symmetry, element, params), []
    for i in range(len(y) if y.ndim > 2 else jax.tree.leaves(params)[0].shape[0]):
        middle = jax.tree.map(lambda a, b: (np.float64(a) + b) / 2, reference, pick(moved, i))
        z = outputs(model, middle, x)
        if kind == "cross_entropy":
            losses.append(np.mean(logsumexp(z, axis=1) - z[np.arange(len(y)), y]))
        else:
            losses.append(np.mean(np.sum((z - y) ** 2, axis=1)))
    return np.array(losses)


@pytest.mark.parametrize(("activation", "kind"), [("relu", "squared_error"), ("tanh", "cross_entropy")])
def test_the_objective_is_the_loss_half_way_and_never_worse_than_that_of_weight_matching(rng, activation, kind):
    model, x = MLP((3, 8, 6, 4), activation), rng.standard_normal((40, 3)).astype(np.float32)
    reference, params = draw(model, rng, dtype=np.float32), draw(model, rng, (4,), np.float32)
    y = rng.integers(4, size=40) if kind == "cross_entropy" else outputs(model, reference, x).astype(np.float32)
    match = match_straight_through(
        model.symmetry, reference, params, model=model, kind=kind, x=x, y=y, rng=np.random.default_rng(1),
        num_steps=20, learning_rate=0.1,
    )  # fmt: skip
    of = lambda element: midpoint_losses(model, kind, reference, params, element, x, y)  # noqa: E731
    np.testing.assert_allclose(match.objective, -of(match.element), rtol=1e-4)
    weights = match_weights(model.symmetry, reference, params, rng=np.random.default_rng(1), num_restarts=1)
    begin = -of(weights.element)
    np.testing.assert_allclose([history[0] for history in match.history], begin, rtol=1e-4)
    assert np.all(match.objective >= begin - 1e-4 * np.abs(begin))
    assert np.any(match.objective > 0.99 * begin)
    for history, best in zip(match.history, match.objective, strict=True):
        assert len(history) == 21
        assert np.all(np.diff(history) >= 0)
        assert history[-1] == best
    np.testing.assert_array_equal(match.sweeps, 20)
    np.testing.assert_array_equal(match.restarts[:, 0], match.objective)


def test_no_steps_are_weight_matching(rng):
    model, x, y = MLP((3, 5, 4, 2)), rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    reference, params = draw(model, rng), draw(model, rng, (2,))
    match = match_straight_through(
        model.symmetry, reference, params, model=model, kind="squared_error", x=x, y=y,
        rng=np.random.default_rng(1), num_steps=0,
    )  # fmt: skip
    weights = match_weights(model.symmetry, reference, params, rng=np.random.default_rng(1), num_restarts=1)
    for got, expected in zip(jax.tree.leaves(match.element), jax.tree.leaves(weights.element), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_networks_are_matched_independently_and_left_alone(rng):
    model, x, y = MLP((3, 5, 4, 2), "tanh"), rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    reference, params = draw(model, rng, (3,)), draw(model, rng, (3,))
    before = jax.tree.map(np.copy, (reference, params))
    options = {"model": model, "kind": "squared_error", "x": x, "y": y, "num_steps": 3}
    match = match_straight_through(model.symmetry, reference, params, rng=np.random.default_rng(1), **options)
    for got, expected in zip(jax.tree.leaves((reference, params)), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(got, expected)
    half = [midpoint_losses(model, "squared_error", pick(reference, i), jax.tree.map(lambda p, i=i: p[i : i + 1], params),
                            match.element[i : i + 1], x, y)[0] for i in range(3)]  # fmt: skip
    np.testing.assert_allclose(match.objective, -np.array(half), rtol=1e-4)
