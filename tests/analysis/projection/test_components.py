import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from analysis.projection import components
from analysis.projection.components import Components, fix_signs, principal_components, schedule_weights

ROUTES = ("scikit-learn", "gram", "stream")
EXACT = {"scikit-learn": 1e-11, "gram": 1e-11, "stream": 1e-6}


def trajectories(rng, num_seeds=5, length=12, num_params=60):
    """Walks with different variances along different params, float32."""
    steps = rng.standard_normal((num_seeds, length, num_params)) * np.geomspace(3, 0.1, num_params)
    return np.cumsum(steps, axis=1).astype(np.float32)


def on_disk(path, theta, rows=2):
    array = zarr.create_array(path, shape=theta.shape, chunks=(rows, 1, theta.shape[2]), dtype=theta.dtype)
    array[:] = theta
    return array


def plain(theta, num, centre="mean", weights=None):
    """Dense SVD of the weighted, centred points."""
    theta = theta.astype(float)
    if centre != "mean":
        rows = (theta - theta[:, [0 if centre == "init" else -1]]).reshape(-1, theta.shape[-1])
    else:
        rows = theta.reshape(-1, theta.shape[-1])
    w = np.ones(len(rows)) if weights is None else np.tile(weights, len(rows) // len(weights))
    w = w / w.sum()
    if centre == "mean":
        rows = rows - w @ rows
    _, s, vt = np.linalg.svd(np.sqrt(w)[:, None] * rows, full_matrices=False)
    directions = fix_signs(vt[:num])
    coordinates = rows @ directions.T
    off = np.linalg.norm(rows - coordinates @ directions, axis=1)
    batch = theta.shape[:-1]
    return directions, coordinates.reshape(*batch, num), s**2 / np.sum(s**2), off.reshape(batch), float(np.sum(s**2))


def check(found: Components, expected, tolerance):
    directions, coordinates, spectrum, residuals, total = expected
    scale = np.abs(coordinates).max()
    np.testing.assert_allclose(found.directions, directions, atol=tolerance)
    np.testing.assert_allclose(found.coordinates, coordinates, atol=tolerance * scale)
    np.testing.assert_allclose(found.residuals, residuals, atol=tolerance * scale)
    np.testing.assert_allclose(found.explained, spectrum[: len(directions)], rtol=1e-10)
    np.testing.assert_allclose(found.spectrum, spectrum[: len(found.spectrum)], rtol=1e-8, atol=1e-14)
    assert found.total == pytest.approx(total, rel=1e-10)
    gram = found.directions @ found.directions.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-13)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("num", [1, 3])
def test_components_are_those_of_scikit_learn(route, convert, num, rng):
    theta = trajectories(rng)
    x = theta.reshape(-1, 60).astype(float)
    before = theta.copy()
    found = principal_components(convert(theta), num, route=route, most_bytes=20_000)
    pca = PCA(num, svd_solver="full").fit(x)
    signs = np.sign(np.sum(found.directions * pca.components_, axis=1))
    tolerance = EXACT[route]
    np.testing.assert_allclose(signs[:, None] * found.directions, pca.components_, atol=tolerance)
    np.testing.assert_allclose(
        signs * found.coordinates.reshape(-1, num), pca.transform(x), atol=tolerance * np.abs(x).max()
    )
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(found.origin, x.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(theta, before)
    assert len(found.spectrum) == (num if route == "stream" else 59 if route == "scikit-learn" else len(found.spectrum))


@pytest.mark.parametrize("route", ["gram", "stream"])
@pytest.mark.parametrize("centre", ["mean", "init", "final"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("source", ["memory", "disk"])
def test_every_route_centre_and_weight_gives_the_plain_decomposition(route, centre, weighted, source, rng, tmp_path):
    theta = trajectories(rng)
    weights = rng.uniform(0.5, 3, 12) if weighted else None
    points = on_disk(tmp_path / "theta.zarr", theta) if source == "disk" else theta
    found = principal_components(points, 2, centre=centre, weights=weights, route=route, most_bytes=8000)
    check(found, plain(theta, 2, centre, weights), EXACT[route])
    own = {"mean": None, "init": theta[:, 0], "final": theta[:, -1]}[centre]
    if own is not None:
        np.testing.assert_array_equal(found.origin, own)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("seeds", [[1, 2, 3], [0, 4], [3, 0, 2]])
def test_chosen_seeds_are_those_alone(route, seeds, rng, tmp_path):
    theta = trajectories(rng)
    theta[[i for i in range(5) if i not in seeds]] = np.nan  # diverged seeds are neither used nor looked at
    stored = on_disk(tmp_path / "theta.zarr", theta)
    expected = plain(theta[seeds], 2)
    for points in (theta, stored):
        found = principal_components(points, 2, seeds=seeds, route=route, most_bytes=10_000)
        check(found, expected, EXACT[route])


@pytest.mark.parametrize("route", ["gram", "stream"])
def test_one_trajectory_may_have_two_axes_and_its_own_ends(route, rng):
    theta = trajectories(rng, 1)
    for centre, origin in (
        ("init", theta[0, 0]),
        ("final", theta[0, -1]),
        ("mean", theta[0].mean(axis=0, dtype=float)),
    ):
        flat = principal_components(theta[0], 2, centre=centre, route=route)
        deep = principal_components(theta, 2, centre=centre, route=route)
        np.testing.assert_allclose(flat.origin, origin, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(flat.origin, deep.origin)
        np.testing.assert_allclose(flat.directions, deep.directions, atol=1e-9)
        np.testing.assert_allclose(flat.coordinates, deep.coordinates[0], atol=1e-6)


@pytest.mark.parametrize("route", ["gram", "stream"])
def test_weights_count_points_as_often_as_they_say(route, rng):
    points = rng.standard_normal((6, 30))
    weights = np.array([1, 3, 2, 1, 1, 2])
    found = principal_components(points, 2, weights=weights.astype(float), route=route)
    repeated = principal_components(np.repeat(points, weights, axis=0), 2, route=route)
    np.testing.assert_allclose(found.directions, repeated.directions, atol=1e-6)
    np.testing.assert_allclose(found.explained, repeated.explained, rtol=1e-8)
    assert found.total == pytest.approx(repeated.total)


@pytest.mark.parametrize("route", ROUTES)
def test_planted_directions_are_found(route, rng):
    """Three planted directions with standard deviations of 5, 3 and 1, and noise of 1e-3 in all others."""
    basis = np.linalg.qr(rng.standard_normal((200, 3)))[0].T
    coordinates = rng.standard_normal((400, 3))
    coordinates = np.linalg.qr(coordinates - coordinates.mean(axis=0))[0] * np.sqrt(400) * [5, 3, 1]
    points = 7 + coordinates @ basis + 1e-3 * rng.standard_normal((400, 200))
    found = principal_components(points, 3, route=route)
    np.testing.assert_allclose(np.abs(found.directions @ basis.T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.explained * found.total, [25, 9, 1], rtol=1e-3)
    np.testing.assert_allclose(found.residuals, 1e-3 * np.sqrt(197), rtol=0.3)


@pytest.mark.parametrize("route", ["scikit-learn", "gram"])
def test_small_variances_beside_large_ones_have_exact_lengths_and_angles(route, rng):
    """The Gram matrix alone would give a second component 2e-6 too long, and residuals of 1e-8."""
    basis = np.linalg.qr(rng.standard_normal((50, 2)))[0].T
    points = 5 + rng.standard_normal((20, 2)) * [1, 3e-6] @ basis
    found = principal_components(points, 2, route=route)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-14)
    np.testing.assert_allclose(np.abs(found.directions @ basis.T), np.eye(2), atol=1e-5)
    assert found.residuals.max() < 1e-13


@given(st.data())
def test_tiny_cases_are_those_of_the_dense_decomposition(data):
    shape = (data.draw(st.integers(2, 4)), data.draw(st.integers(2, 5)), data.draw(st.integers(2, 6)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    theta = rng.standard_normal(shape)
    centre = data.draw(st.sampled_from(["mean", "init", "final"]))
    route = data.draw(st.sampled_from(["gram", "stream"]))
    directions, _, spectrum, residuals, total = plain(theta, 1, centre)
    found = principal_components(theta, 1, centre=centre, route=route, most_bytes=data.draw(st.integers(1, 500)))
    np.testing.assert_allclose(found.explained, spectrum[:1], rtol=1e-8)
    assert found.total == pytest.approx(total, rel=1e-10)
    if spectrum[1] < 0.9 * spectrum[0]:
        np.testing.assert_allclose(found.directions, directions, atol=1e-5)
        np.testing.assert_allclose(found.residuals, residuals, atol=1e-5)


def test_a_rotation_rotates_and_an_order_orders(rng):
    points = rng.standard_normal((9, 20)) * np.geomspace(4, 1, 20)
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    found = principal_components(points, 3)
    turned = principal_components(points @ rotation, 3)
    np.testing.assert_allclose(turned.explained, found.explained, rtol=1e-12)
    np.testing.assert_allclose(np.abs(turned.directions @ rotation.T @ found.directions.T), np.eye(3), atol=1e-9)
    order = rng.permutation(9)
    np.testing.assert_allclose(principal_components(points[order], 3).coordinates, found.coordinates[order], atol=1e-9)
    assert np.all(np.diff(found.explained) <= 0)


def test_the_entry_of_the_largest_size_is_positive(rng):
    rows = np.array([[1.0, -3.0, 2.0], [-1.0, 0.0, 0.5], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(fix_signs(rows), [[-1, 3, -2], [1, 0, -0.5], [0.1, 0.2, 0.3]])
    for route in ROUTES:
        found = principal_components(rng.standard_normal((8, 12)), 3, route=route).directions
        assert np.all(found[np.arange(3), np.abs(found).argmax(axis=1)] > 0)


class Counting:
    """An array on disk, as far as its reader can tell, that remembers how much is asked for."""

    def __init__(self, theta, rows):
        self._theta, self.shape, self.chunks = theta, theta.shape, (rows, 1, theta.shape[2])
        self.sizes = []

    def __getitem__(self, index):
        part = self._theta[index]
        self.sizes.append(part.size)
        return part


@pytest.mark.parametrize("centre", ["mean", "init"])
def test_streaming_reads_a_block_of_one_checkpoint_at_a_time_and_each_once_a_pass(centre, rng):
    theta = trajectories(rng, 6, 10, 50)
    source, passes = Counting(theta, 2), []
    found = principal_components(source, 2, centre=centre, route="stream", most_bytes=4000, progress=passes.append)
    check(found, plain(theta, 2, centre), 1e-6)
    assert max(source.sizes[centre == "init" :]) == 2 * 50  # after the starts, which are the origin
    extra = theta.size if centre == "mean" else 6 * 50  # the mean, or the starts
    assert sum(source.sizes) == extra + theta.size * (1 + sum("pass" in text for text in passes))


def test_the_gram_route_holds_one_chunk_of_params_at_a_time(rng):
    theta = trajectories(rng, 6, 10, 50)
    source = Counting(theta, 2)
    check(principal_components(source, 2, route="gram", most_bytes=60 * 8 * 7), plain(theta, 2), 1e-11)
    assert max(source.sizes) == 60 * 7
    assert sum(source.sizes) == 3 * theta.size


def test_the_route_depends_on_size_and_case(rng, monkeypatch):
    taken = []
    for name in ("_by_scikit_learn", "_by_gram", "_by_streaming"):
        own = getattr(components, name)
        monkeypatch.setattr(components, name, lambda *args, n=name, f=own: taken.append(n) or f(*args))
    points = rng.standard_normal((8, 40))
    principal_components(points)
    principal_components(points, weights=np.ones(8))
    principal_components(points, centre="final")
    principal_components(points, most_bytes=1000)
    monkeypatch.setattr(components, "MOST_GRAM", 7)
    principal_components(points, most_bytes=1000)
    assert taken == ["_by_scikit_learn", *["_by_gram"] * 3, "_by_streaming"]


def test_checkpoints_weigh_alike_or_by_their_steps():
    np.testing.assert_allclose(schedule_weights(np.array([0, 1, 10])), 1 / 3)
    np.testing.assert_allclose(schedule_weights(np.array([0, 2, 10]), "step"), [0.1, 0.5, 0.4])
    assert schedule_weights(np.array([0, 1, 10, 100, 250]), "step").sum() == pytest.approx(1)
    assert schedule_weights(np.array([3])).tolist() == [1]
    for steps, by in (([0, 0, 1], "checkpoint"), ([2, 1], "step"), ([4], "step")):
        with pytest.raises(ValueError, match="ascending steps"):
            schedule_weights(np.array(steps), by)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("theta", "num", "match"),
    [
        (np.eye(2), 2, "2 principal components take at least 3 points, got 2"),
        (np.outer(np.arange(4.0), [1, 2, 3]), 2, "the 4 points span fewer than 2 dimensions"),
        (np.full((3, 7), 0.1), 1, "the 3 points span fewer than 1 dimensions"),
        (np.full((30, 7), 1e9 / 3), 1, "the 30 points span fewer than 1 dimensions"),
        (np.ones((5, 1)), 2, "2 principal components take as many params, got 1"),
        (np.ones(5), 1, r"points have shape \(5,\)"),
        (np.ones((0, 4)), 1, "got no points"),
    ],
)
def test_points_without_enough_dimensions_are_refused(route, theta, num, match):
    with pytest.raises(ValueError, match=match):
        principal_components(theta, num, route=route)


@pytest.mark.parametrize("route", ROUTES)
def test_what_cannot_be_analysed_is_refused(route, rng):
    theta = trajectories(rng)
    theta[[1, 3], 2, 5] = np.inf
    with pytest.raises(ValueError, match=r"positions \[1(, 3)?\] along the first axis are not finite"):
        principal_components(theta, route=route)
    with pytest.raises(ValueError, match=r"weights have shape \(3,\): \(12,\) or \(5, 12\) is expected"):
        principal_components(trajectories(rng), route=route, weights=np.ones(3))
    with pytest.raises(ValueError, match="positive numbers"):
        principal_components(trajectories(rng), route=route, weights=np.zeros(12))


def test_scikit_learn_refuses_what_it_does_not_know_and_streaming_what_it_does_not_reach(rng, monkeypatch):
    with pytest.raises(ValueError, match="knows neither weights nor another centre"):
        principal_components(trajectories(rng), centre="init", route="scikit-learn")
    monkeypatch.setattr(components, "MOST_PASSES", 2)
    with pytest.raises(ValueError, match="in 2 passes, 1e-08 is expected"):
        principal_components(trajectories(rng), route="stream")


def test_results_are_plain_arrays_of_float64(rng):
    found = principal_components(jnp.asarray(trajectories(rng)), 2)
    for value in dataclasses.astuple(found)[:-1]:
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float64
