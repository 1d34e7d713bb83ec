import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from analysis.similarity import neighbourhoods, scaling


def between(points):
    return squareform(pdist(points))


def clusters(rng, num=12):
    """Three groups far apart in ten dimensions."""
    centres = 20 * np.eye(3, 10)
    return np.repeat(centres, num, axis=0) + 0.3 * rng.standard_normal((3 * num, 10))


def test_scaling_gives_planted_points_back(rng):
    points = rng.standard_normal((15, 2)) * [3, 1]
    got = scaling(between(points))
    _, _, disparity = procrustes(points, got.coordinates)
    assert disparity < 1e-20
    np.testing.assert_allclose(between(got.coordinates), between(points), atol=1e-10)
    np.testing.assert_allclose(got.explained.sum(), 1)
    assert got.negative < 1e-12


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
