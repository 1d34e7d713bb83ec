import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness

from analysis.representation import drawings


def clusters(rng, num=20):
    """Three groups far apart in ten dimensions."""
    return np.repeat(20 * np.eye(3, 10), num, axis=0) + 0.3 * rng.standard_normal((3 * num, 10))


def turned(points, width, rng):
    return points @ np.linalg.qr(rng.standard_normal((width, width)))[0][: points.shape[1]] + rng.standard_normal(width)


def spearman(a, b):
    return np.corrcoef(rankdata(a), rankdata(b))[0, 1]


def test_points_of_a_plane_are_drawn_as_they_lie_and_nothing_is_lost(rng):
    points = rng.standard_normal((40, 2)) * [3, 1]
    got = drawings([turned(points, 7, rng)], perplexity=10.0, rng=rng)
    assert procrustes(points, got.principal.coordinates[0])[2] < 1e-20
    np.testing.assert_allclose(pdist(got.principal.coordinates[0]), pdist(points), rtol=1e-9)
    np.testing.assert_allclose(got.explained.sum(), 1)
    assert (got.principal.trust[0], got.principal.correlation[0]) == pytest.approx((1, 1))


def test_what_is_stated_is_what_was_used_and_measured(rng):
    x = rng.standard_normal((60, 5))
    got = drawings([x, x**3], perplexity=8.0, rng=rng)
    assert (got.perplexity, got.num_neighbours) == (8, 10)
    np.testing.assert_array_equal(got.examples, np.arange(60))
    for k, layer in enumerate((x, x**3)):
        for drawing in (got.principal, got.neighbours):
            plane = drawing.coordinates[k]
            assert drawing.trust[k] == pytest.approx(trustworthiness(layer, plane, n_neighbors=10))
            assert drawing.correlation[k] == pytest.approx(spearman(pdist(layer), pdist(plane)))
        variances = np.linalg.svd(layer - layer.mean(axis=0), compute_uv=False) ** 2
        np.testing.assert_allclose(got.explained[k], variances[:2] / variances.sum())
    assert np.all(got.explained.sum(axis=1) < 1)
    assert np.all(got.divergence > 0)


def test_t_sne_keeps_planted_groups_together(rng):
    got = drawings([clusters(rng)], perplexity=10.0, rng=rng).neighbours
    plane = got.coordinates[0].reshape(3, 20, 2)
    within = np.linalg.norm(plane - plane.mean(axis=1, keepdims=True), axis=2).max()
    assert pdist(plane.mean(axis=1)).min() > 2 * within
    assert got.trust[0] > 0.9


def test_only_the_choice_of_examples_is_random(rng):
    x = rng.standard_normal((50, 4))
    one, two = (drawings([x], perplexity=5.0, rng=np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(one.neighbours.coordinates, two.neighbours.coordinates)
    np.testing.assert_array_equal(one.principal.coordinates, two.principal.coordinates)


def test_layers_show_the_same_examples_no_more_than_asked_for(rng):
    x = rng.standard_normal((50, 4))
    got = drawings([x, 2 * x], perplexity=5.0, most_examples=20, rng=rng)
    assert got.neighbours.coordinates.shape == (2, 20, 2)
    assert len(np.unique(got.examples)) == 20
    assert np.all(np.diff(got.examples) > 0)
    np.testing.assert_allclose(got.principal.coordinates[1], 2 * got.principal.coordinates[0], atol=1e-12)
    np.testing.assert_allclose(pdist(got.principal.coordinates[0]), pdist(drawn_alone(x[got.examples], rng)))


def drawn_alone(x, rng):
    return drawings([x], perplexity=5.0, rng=rng).principal.coordinates[0]


def test_one_unit_is_drawn_on_a_line_and_a_layer_that_does_not_vary_is_not_drawn(rng):
    line, flat = rng.standard_normal((30, 1)), np.full((30, 3), 0.1, np.float32)
    got = drawings([line, flat], perplexity=5.0, rng=rng)
    np.testing.assert_allclose(abs(got.principal.coordinates[0, :, 0]), abs(line[:, 0] - line.mean()))
    np.testing.assert_array_equal(got.principal.coordinates[0, :, 1], 0)
    np.testing.assert_allclose(got.explained[0], [1, 0])
    for values in (got.principal, got.neighbours):
        assert np.isnan(values.coordinates[1]).all()
        assert np.isnan([values.trust[1], values.correlation[1]]).all()
    assert np.isnan([*got.explained[1], got.divergence[1]]).all()


def test_what_cannot_be_drawn_is_refused(rng):
    x = rng.standard_normal((30, 3))
    with pytest.raises(ValueError, match=r"layers have \[29, 30\] examples"):
        drawings([x, x[1:]], rng=rng)
    with pytest.raises(ValueError, match=r"layers have \[\] examples"):
        drawings([], rng=rng)
    with pytest.raises(ValueError, match="3 of 30 examples to draw: at least four"):
        drawings([x], most_examples=3, rng=rng)
    for perplexity in (30.0, 0.5):
        with pytest.raises(ValueError, match=rf"perplexity = {perplexity}: a number from 1 to less than the 30"):
            drawings([x], perplexity=perplexity, rng=rng)
    with pytest.raises(ValueError, match=r"layers \[1\] are not finite"):
        drawings([x, x * np.nan], rng=rng)
