import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from analysis.similarity import neighbourhoods, prediction_distances, scaling


def between(points):
    return squareform(pdist(points))


def clusters(rng, num=12):
    """Three groups far apart in ten dimensions."""
    centres = 20 * np.eye(3, 10)
    return np.repeat(centres, num, axis=0) + 0.3 * rng.standard_normal((3 * num, 10))


def test_distances_of_predictions_are_the_mean_divergence_and_a_metric(rng):
    logits = 3 * rng.standard_normal((3, 4, 20, 5)).astype(np.float32)
    got = prediction_distances(logits, "classification")
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=-1, keepdims=True)
    p = p.reshape(12, 20, 5)  # seed by seed
    entropy = lambda q: -np.sum(q * np.log(q), axis=-1)  # noqa: E731
    for i, j in ((0, 1), (2, 11), (5, 4)):
        js = np.mean(entropy((p[i] + p[j]) / 2) - (entropy(p[i]) + entropy(p[j])) / 2)
        assert got[i, j] == pytest.approx(np.sqrt(js))
    assert np.all(got[:, :, None] <= got[:, None, :] + got.T[None] + 1e-12)
    assert np.all(np.diagonal(got) == 0)
    assert got.max() <= np.sqrt(np.log(2))
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])[:, None, None] * 2000
    np.testing.assert_allclose(prediction_distances(sure, "classification")[0, 1], np.sqrt(np.log(2)))


def test_distances_of_regressions_are_euclidean(rng):
    outputs = rng.standard_normal((2, 3, 10, 2))
    got = prediction_distances(outputs, "regression")
    np.testing.assert_allclose(got, between(outputs.reshape(6, -1)) / np.sqrt(20))
    assert scaling(got).negative < 1e-12
    for bad in (outputs[:, :, :0], outputs * np.nan):
        with pytest.raises(ValueError, match="empty or not finite"):
            prediction_distances(bad, "regression")


def test_scaling_gives_planted_points_back(rng):
    points = rng.standard_normal((15, 2)) * [3, 1]
    got = scaling(between(points))
    _, _, disparity = procrustes(points, got.coordinates)
    assert disparity < 1e-20
    np.testing.assert_allclose(between(got.coordinates), between(points), atol=1e-10)
    np.testing.assert_allclose(got.explained.sum(), 1)
    assert got.negative < 1e-12
    assert got.stress < 1e-12


def test_scaling_follows_the_order_of_points_and_leaves_what_is_flat_flat(rng):
    far, order = between(rng.standard_normal((15, 4))), rng.permutation(15)
    one, two = scaling(far, 3), scaling(far[np.ix_(order, order)], 3)
    np.testing.assert_allclose(two.coordinates, one.coordinates[order], atol=1e-9)
    np.testing.assert_allclose([two.stress, two.negative], [one.stress, one.negative], atol=1e-9)
    line = between(np.arange(6.0)[:, None] * [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scaling(line).coordinates[:, 1], 0)


def test_stress_is_the_part_of_the_distances_that_is_off(rng):
    points = rng.standard_normal((10, 5))
    got = scaling(between(points))
    off = between(points) - between(got.coordinates)
    assert got.stress == pytest.approx(np.sqrt(np.sum(off**2) / np.sum(between(points) ** 2)))


def test_scaling_of_euclidean_distances_is_pca(rng):
    points = rng.standard_normal((12, 6)) * np.geomspace(4, 1, 6)
    got, pca = scaling(between(points), 3), PCA(3).fit(points)
    np.testing.assert_allclose(np.abs(got.coordinates), np.abs(pca.transform(points)), atol=1e-8)
    np.testing.assert_allclose(got.explained, pca.explained_variance_ratio_, rtol=1e-8)
    assert np.all(got.coordinates[np.abs(got.coordinates).argmax(axis=0), np.arange(3)] > 0)


def test_distances_that_fit_no_space_are_told(rng):
    odd = np.array([[0.0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0]])  # a star: its arms are shorter than any
    got = scaling(odd)
    assert got.negative > 0.01


def test_clusters_stay_together_in_every_start(rng):
    points = clusters(rng)
    got = neighbourhoods(between(points), perplexity=8, num_starts=3, rng=rng)
    labels = np.repeat(np.arange(3), 12)
    for plane in got.coordinates:
        near = np.argsort(between(plane), axis=1)[:, 1:6]
        assert np.mean(labels[near] == labels[:, None]) > 0.95
    assert got.perplexity == 8
    assert got.trust.min() > 0.85
    assert got.agreement is not None
    assert 0.2 < got.agreement <= 1
    assert np.array_equal(got.best, got.coordinates[got.divergence.argmin()])


def test_noise_is_told_by_its_starts(rng):
    """Equidistant points have no neighbourhoods: starts do not agree."""
    got = neighbourhoods(1 - np.eye(30), perplexity=5, num_starts=3, rng=rng)
    assert got.agreement is not None
    assert abs(got.agreement) < 0.2


def test_the_same_generator_gives_the_same_points(rng):
    far = between(clusters(rng, 5))
    one, two = (neighbourhoods(far, perplexity=4, num_starts=2, rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.coordinates, two.coordinates)
    assert neighbourhoods(far, perplexity=4, num_starts=1, rng=rng).agreement is None


@pytest.mark.parametrize(
    ("distances", "match"),
    [
        (np.zeros((5, 5)), "all points are at one place"),
        (np.full((5, 5), np.nan), "missing or negative"),
        (1 - np.eye(2), "2 points: at least"),
        (np.triu(np.ones((5, 5)), 1), "are symmetric"),
        (np.ones((5, 5)), "are symmetric"),
    ],
)
def test_what_cannot_be_drawn_is_refused(distances, match, rng):
    with pytest.raises(ValueError, match=match):
        scaling(distances)
    with pytest.raises(ValueError, match=match):
        neighbourhoods(distances, perplexity=1, rng=rng)


def test_a_perplexity_takes_more_points(rng):
    with pytest.raises(ValueError, match=r"perplexity = 30: .* less than the 5 points"):
        neighbourhoods(1 - np.eye(5), perplexity=30, rng=rng)
    with pytest.raises(ValueError, match="num_starts = 0"):
        neighbourhoods(1 - np.eye(5), perplexity=2, num_starts=0, rng=rng)
