import jax
import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from analysis.representation import features, restart_map, shape_distances
from wspace import symmetry
from wspace.models import MLP

ZERO = 3e-7  # arccos(1 - eps) is the root of 2 eps


def test_distances_are_those_of_a_plain_implementation(rng):
    x = rng.standard_normal((4, 12, 5)) + rng.standard_normal((4, 1, 5))
    got = shape_distances(x)
    for i in range(4):
        for j in range(4):
            if i != j:  # SciPy's disparity is 1 - cos^2
                assert np.cos(got[i, j]) ** 2 == pytest.approx(1 - procrustes(x[i], x[j])[2], abs=1e-12)
    np.testing.assert_array_equal(np.diag(got), 0)


def test_rotation_scale_shift_and_order_of_units_change_nothing_and_a_linear_map_does(rng):
    x = rng.standard_normal((20, 5))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    variants = [x, 3 * x @ rotation + 7, -x[:, rng.permutation(5)], x * [1, 2, 5, 9, 20]]
    got = shape_distances(np.stack(variants))
    assert got[:3, :3].max() < ZERO
    assert got[:3, 3].min() > 0.2
    np.testing.assert_allclose(got[:3, 3], got[0, 3])


def test_the_triangle_inequality_holds(rng):
    base = rng.standard_normal((1, 10, 3))
    got = shape_distances(base + rng.uniform(0.05, 3, size=(14, 1, 1)) * rng.standard_normal((14, 10, 3)))
    assert np.all(got[:, :, None] <= got[:, None, :] + got.T[None] + 1e-12)
    np.testing.assert_array_equal(got, got.T)
    assert 0 < got[0, 1] < np.pi / 2


def test_units_beyond_the_examples_change_nothing_but_the_route(rng):
    """Zeros beside the units: wider than there are examples, so that these are reduced first."""
    x = rng.standard_normal((3, 9, 4))
    wide = np.concatenate([x, np.zeros((3, 9, 30))], axis=2) @ np.linalg.qr(rng.standard_normal((34, 34)))[0]
    np.testing.assert_allclose(shape_distances(wide), shape_distances(x), atol=ZERO)
    np.testing.assert_array_equal(shape_distances(x.reshape(3, 9, 2, 2)), shape_distances(x))


def test_permuted_networks_are_at_one_place(rng):
    model = MLP((4, 8, 6, 3), "tanh")
    one = model.init(jax.random.key(0))
    element = symmetry.random_element(model.symmetry, rng)
    other = symmetry.act(model.symmetry, element, one)
    third = model.init(jax.random.key(2))
    params = jax.tree.map(lambda *leaves: np.stack(leaves), one, other, third)
    for layer in features(model, params, rng.standard_normal((30, 4)).astype(np.float32))[1:]:
        got = shape_distances(layer)
        assert got[0, 1] < 1e-6
        assert got[0, 2] > 0.1
        assert got[0, 2] == pytest.approx(got[1, 2], abs=1e-6)


def arc(angles, rng):
    """One unit, features on a great circle: distances are the angles between them, |s - t|, exactly Euclidean."""
    plane = rng.standard_normal((25, 2))
    axes = np.linalg.qr(plane - plane.mean(axis=0))[0]
    return (np.cos(angles)[:, None] * axes[:, 0] + np.sin(angles)[:, None] * axes[:, 1])[..., None]


def test_planted_restarts_are_drawn_where_they_are(rng):
    angles = rng.uniform(0, 1.5, size=9)
    got = restart_map(arc(angles, rng))
    np.testing.assert_allclose(got.distance, squareform(pdist(angles[:, None])), atol=ZERO)
    along = got.plane.coordinates[:, 0]
    np.testing.assert_allclose(along * np.sign(along @ (angles - angles.mean())), angles - angles.mean(), atol=1e-6)
    np.testing.assert_allclose(got.plane.explained, [1, 0], atol=1e-6)
    assert got.plane.stress < 1e-6
    assert got.trained.all()


def test_untrained_networks_are_drawn_beside(rng):
    trained = rng.standard_normal((1, 30, 4)) + 0.2 * rng.standard_normal((5, 30, 4))
    untrained = rng.standard_normal((3, 30, 4))
    got = restart_map(trained, untrained)
    np.testing.assert_array_equal(got.trained, [True] * 5 + [False] * 3)
    np.testing.assert_array_equal(got.distance, shape_distances(np.concatenate([trained, untrained])))
    assert got.distance[:5, :5].max() < got.distance[:5, 5:].min()
    assert 0 < got.plane.stress < 1


def test_what_does_not_vary_has_no_distance_and_is_not_drawn(rng):
    x = rng.standard_normal((4, 8, 3)).astype(np.float32)
    x[2] = 0.1
    got = shape_distances(x)
    assert np.isnan(got[2]).all()
    assert np.isnan(got[:, 2]).all()
    assert np.isfinite(got[np.ix_([0, 1, 3], [0, 1, 3])]).all()
    with pytest.raises(ValueError, match=r"positions \[2\] do not vary"):
        restart_map(x)


def test_what_cannot_be_compared_is_refused(rng):
    x = rng.standard_normal((4, 8, 3))
    with pytest.raises(ValueError, match="2 examples: at least three"):
        shape_distances(x[:, :2])
    with pytest.raises(ValueError, match=r"\(8, 3\), untrained ones \(8, 2\): equal ones"):
        restart_map(x, x[..., :2])
    with pytest.raises(ValueError, match="2 points: at least 3"):
        restart_map(x[:2])
    x[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"positions \[1\] are not finite"):
        shape_distances(x)
