import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from analysis.projection import components
from analysis.projection import points as reading
from analysis.projection.components import Components, fix_signs, principal_components, schedule_weights

ROUTES = ("scikit-learn", "gram", "stream")
CENTRES = ("mean", "init", "final")
TIGHT = 1e-12  # of streaming, so that directions are as exact as the others'


def trajectories(rng, num_seeds=5, length=12, num_params=60):
    """Walks with different variances along different params, float32."""
    steps = rng.standard_normal((num_seeds, length, num_params)) * np.geomspace(3, 0.1, num_params)
    return np.cumsum(steps, axis=1).astype(np.float32)


def on_disk(path, theta, rows=2):
    chunks = (rows, 1, theta.shape[2]) if theta.ndim == 3 else (rows, theta.shape[1])
    array = zarr.create_array(path, shape=theta.shape, chunks=chunks, dtype=theta.dtype, compressors=None)
    array[:] = theta
    return zarr.open_array(path, mode="r")


def dense(theta, num, centre="mean", weights=None):
    """SVD of the weighted points less their origin, in float64."""
    theta = theta.astype(float)
    w = np.ones(theta.shape[:-1]) if weights is None else np.broadcast_to(weights, theta.shape[:-1])
    w = w.ravel() / w.sum()
    rows = theta.reshape(-1, theta.shape[-1])
    if centre == "mean":
        origin = w @ rows
        rows = rows - origin
    else:
        own = theta if theta.ndim == 3 else theta[None]
        origin = own[:, 0 if centre == "init" else -1]
        rows = (own - origin[:, None]).reshape(rows.shape)
        origin = origin[0] if len(origin) == 1 else origin
    _, s, vt = np.linalg.svd(np.sqrt(w)[:, None] * rows, full_matrices=False)
    directions = fix_signs(vt[:num])
    coordinates, total = rows @ directions.T, float(np.sum(s**2))
    off = np.linalg.norm(rows - coordinates @ directions, axis=1)
    batch = theta.shape[:-1]
    return Components(
        origin, directions, coordinates.reshape(*batch, num), s[:num] ** 2 / total, s**2 / total, off.reshape(batch), total
    )  # fmt: skip


def alike(found: Components, expected: Components, tolerance=1e-8):
    scale = np.abs(expected.coordinates).max()
    num = len(found.directions)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(num), atol=1e-13)
    np.testing.assert_allclose(found.directions, expected.directions, atol=tolerance)
    np.testing.assert_allclose(found.coordinates, expected.coordinates, atol=tolerance * scale)
    np.testing.assert_allclose(found.residuals, expected.residuals, atol=tolerance * scale)
    np.testing.assert_allclose(found.explained, expected.explained, rtol=1e-10)
    np.testing.assert_allclose(found.spectrum, expected.spectrum[: len(found.spectrum)], rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(found.origin, expected.origin, rtol=1e-10, atol=1e-12)
    assert found.total == pytest.approx(expected.total, rel=1e-10)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("num", [1, 3])
def test_components_are_those_of_scikit_learn(route, convert, num, rng):
    theta = trajectories(rng)
    before, x = theta.copy(), theta.reshape(-1, 60).astype(float)
    found = principal_components(convert(theta), num, route=route, most_bytes=20_000, tolerance=TIGHT)
    pca = PCA(num, svd_solver="full").fit(x)
    axes, ratios = np.asarray(pca.components_), np.asarray(pca.explained_variance_ratio_)
    signs = np.sign(np.sum(found.directions * axes, axis=1))
    np.testing.assert_allclose(signs[:, None] * found.directions, axes, atol=1e-9)
    np.testing.assert_allclose(signs * found.coordinates.reshape(-1, num), pca.transform(x), atol=1e-8)
    np.testing.assert_allclose(found.explained, ratios, rtol=1e-11)
    np.testing.assert_allclose(found.origin, np.asarray(pca.mean_), rtol=1e-9, atol=1e-12)
    off = x - pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose(found.residuals.ravel(), np.linalg.norm(off, axis=1), rtol=1e-9)
    assert len(found.spectrum) == (num if route == "stream" else 59)  # 60 points about their mean
    np.testing.assert_array_equal(theta, before)


@pytest.mark.parametrize("route", ["gram", "stream"])
@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("source", "num_params"), [("memory", 40), ("memory", 100), ("disk", 40), ("disk", 100)])
def test_every_route_centre_and_weight_gives_the_dense_decomposition(
    route, centre, weighted, source, num_params, rng, tmp_path
):
    theta = trajectories(rng, num_params=num_params) + np.float32(5)
    weights = np.append(0.0, rng.uniform(0.5, 3, 11)) if weighted else None
    points: Any = on_disk(tmp_path / "theta.zarr", theta, 3) if source == "disk" else theta
    found = principal_components(
        points, 2, centre=centre, weights=weights, route=route, most_bytes=8000, tolerance=TIGHT
    )
    alike(found, dense(theta, 2, centre, weights))
    if centre != "mean":
        assert found.origin.dtype == np.float32
    assert found.residuals.shape == (5, 12)  # those without weight too


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("seeds", [[1, 2, 3], [0, 4], [3, 0, 2], [2, 2, 0]])
def test_chosen_seeds_are_those_alone(route, seeds, rng, tmp_path):
    theta = trajectories(rng)
    theta[[i for i in range(5) if i not in seeds]] = np.nan  # diverged seeds are neither used nor looked at
    expected = dense(theta[seeds], 2)
    for points in (theta, on_disk(tmp_path / "theta.zarr", theta)):
        found = principal_components(points, 2, seeds=seeds, route=route, most_bytes=10_000, tolerance=TIGHT)
        alike(found, expected)


@pytest.mark.parametrize("route", ["gram", "stream"])
@pytest.mark.parametrize("centre", CENTRES)
def test_one_trajectory_may_have_two_axes(route, centre, rng, tmp_path):
    theta = trajectories(rng, 1)
    expected = dense(theta[0], 2, centre)
    for points in (theta[0], on_disk(tmp_path / "theta.zarr", theta[0], 5)):
        found = principal_components(points, 2, centre=centre, route=route, most_bytes=2000, tolerance=TIGHT)
        alike(found, expected)
    deep = principal_components(theta, 2, centre=centre, route=route, tolerance=TIGHT)
    assert deep.origin.shape == (60,)
    np.testing.assert_allclose(deep.coordinates[0], expected.coordinates, atol=1e-7)
    chosen = principal_components(theta[0], 2, centre=centre, route=route, seeds=np.arange(3, 9), tolerance=TIGHT)
    alike(chosen, dense(theta[0, 3:9], 2, centre))


@pytest.mark.parametrize("route", ["gram", "stream"])
def test_points_about_their_own_origin_have_an_uncentred_decomposition(route, rng):
    """Of differences from the last checkpoint no mean is subtracted again."""
    theta = trajectories(rng, 3, 6, 40).astype(float)
    rows = (theta - theta[:, [-1]]).reshape(18, 40)
    found = principal_components(theta, 2, centre="final", route=route, tolerance=TIGHT)
    _, s, vt = np.linalg.svd(rows)
    np.testing.assert_allclose(found.explained, s[:2] ** 2 / np.sum(s**2), rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.directions @ vt[:2].T), np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found.coordinates[:, -1], 0, atol=1e-12)
    assert not np.allclose(found.explained, principal_components(theta, 2).explained, rtol=1e-2)


@pytest.mark.parametrize("route", ["gram", "stream"])
@pytest.mark.parametrize("num_params", [4, 30])
def test_weights_count_points_as_often_as_they_say(route, num_params, rng):
    points = rng.standard_normal((7, num_params))
    times = np.array([1, 3, 2, 1, 1, 2, 0])
    found = principal_components(points, 2, weights=times, route=route, tolerance=TIGHT)
    repeated = principal_components(np.repeat(points, times, axis=0), 2, route=route, tolerance=TIGHT)
    np.testing.assert_allclose(found.directions, repeated.directions, atol=1e-9)
    np.testing.assert_allclose(found.explained, repeated.explained, rtol=1e-10)
    np.testing.assert_allclose(np.repeat(found.coordinates, times, axis=0), repeated.coordinates, atol=1e-8)
    np.testing.assert_allclose(np.repeat(found.residuals, times), repeated.residuals, atol=1e-8)
    assert found.total == pytest.approx(repeated.total)
    scaled = principal_components(points, 2, weights=0.1 * times, route=route, tolerance=TIGHT)
    np.testing.assert_allclose(scaled.explained, found.explained, rtol=1e-12)
    alike(principal_components(points, 2, weights=np.full(7, 3)), principal_components(points, 2), 1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_planted_directions_are_found(route, rng):
    """Trajectories along three directions with standard deviations of 5, 3 and 1, and noise of 1e-3 in all others."""
    basis = np.linalg.qr(rng.standard_normal((200, 3)))[0].T
    coordinates = rng.standard_normal((100, 3))
    coordinates = np.linalg.qr(coordinates - coordinates.mean(axis=0))[0] * np.sqrt(100) * [5, 3, 1]
    points = 7 + coordinates @ basis + 1e-3 * rng.standard_normal((100, 200))
    found = principal_components(points.reshape(5, 20, 200), 3, route=route)
    np.testing.assert_allclose(np.abs(found.directions @ basis.T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.explained * found.total, [25, 9, 1], rtol=1e-3)
    np.testing.assert_allclose(found.residuals, 1e-3 * np.sqrt(197), rtol=0.3)
    assert found.total == pytest.approx(35 + 197e-6, rel=1e-3)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("num_params", [10, 50])
def test_small_variances_beside_large_ones_have_exact_lengths_and_angles(route, num_params, rng):
    """The Gram matrix alone would give a second component 2e-6 too long, and residuals of 1e-8."""
    basis = np.linalg.qr(rng.standard_normal((num_params, 2)))[0].T
    coordinates = np.linalg.qr((draws := rng.standard_normal((20, 2))) - draws.mean(axis=0))[0] * [1, 1e-5]
    found = principal_components(5 + coordinates @ basis, 2, route=route, tolerance=TIGHT)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-14)
    np.testing.assert_allclose(np.abs(found.directions @ basis.T), np.eye(2), atol=1e-9)
    np.testing.assert_allclose(found.explained[1] / found.explained[0], 1e-10, rtol=1e-6)
    assert found.residuals.max() < 3e-14


@pytest.mark.parametrize("route", ROUTES)
def test_points_in_a_plane_leave_nothing(route, rng):
    points = rng.standard_normal((30, 2)) * [2, 1] @ rng.standard_normal((2, 40)) + 3
    found = principal_components(points, 2, route=route, tolerance=TIGHT)
    assert found.residuals.max() < 1e-11
    assert found.explained.sum() == pytest.approx(1, abs=1e-14)
    assert len(found.spectrum) == 2
    np.testing.assert_allclose(found.origin + found.coordinates @ found.directions, points, atol=1e-12)


@given(st.data())
def test_tiny_cases_are_those_of_the_dense_decomposition(data):
    shape = (data.draw(st.integers(2, 4)), data.draw(st.integers(2, 5)), data.draw(st.integers(2, 6)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    theta = rng.standard_normal(shape)
    centre = data.draw(st.sampled_from(CENTRES))
    route = data.draw(st.sampled_from(["gram", "stream"]))
    weights = rng.uniform(0.2, 2, shape[1]) if data.draw(st.booleans()) else None
    expected = dense(theta, 1, centre, weights)
    most_bytes = data.draw(st.integers(1, 500))
    found = principal_components(
        theta, 1, centre=centre, weights=weights, route=route, most_bytes=most_bytes, tolerance=TIGHT
    )
    np.testing.assert_allclose(found.explained, expected.explained, rtol=1e-10)
    assert found.total == pytest.approx(expected.total, rel=1e-10)
    if expected.spectrum[1] < 0.9 * expected.spectrum[0]:
        np.testing.assert_allclose(np.abs(found.directions), np.abs(expected.directions), atol=1e-9)
        np.testing.assert_allclose(found.residuals, expected.residuals, atol=1e-8)


@pytest.mark.parametrize("route", ROUTES)
def test_a_rotation_rotates_and_an_order_orders(route, rng):
    points = rng.standard_normal((9, 20)) * np.geomspace(4, 1, 20)
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    found = principal_components(points, 3, route=route, tolerance=TIGHT)
    turned = principal_components(points @ rotation + 3, 3, route=route, tolerance=TIGHT)
    np.testing.assert_allclose(turned.explained, found.explained, rtol=1e-10)
    np.testing.assert_allclose(turned.residuals, found.residuals, rtol=1e-8)
    np.testing.assert_allclose(np.abs(turned.directions @ rotation.T @ found.directions.T), np.eye(3), atol=1e-9)
    order = rng.permutation(9)
    permuted = principal_components(points[order], 3, route=route, tolerance=TIGHT)
    np.testing.assert_allclose(permuted.directions, found.directions, atol=1e-9)
    np.testing.assert_allclose(permuted.coordinates, found.coordinates[order], atol=1e-8)
    np.testing.assert_allclose(permuted.residuals, found.residuals[order], atol=1e-8)
    assert np.all(np.diff(found.explained) <= 0)


def test_the_entry_of_the_largest_size_is_positive(rng):
    rows = np.array([[1.0, -3.0, 2.0], [-1.0, 0.0, 0.5], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(fix_signs(rows), [[-1, 3, -2], [1, 0, -0.5], [0.1, 0.2, 0.3]])
    for route in ROUTES:
        found = principal_components(points := rng.standard_normal((8, 12)), 3, route=route)
        assert np.all(found.directions[np.arange(3), np.abs(found.directions).argmax(axis=1)] > 0)
        np.testing.assert_allclose((points - found.origin) @ found.directions.T, found.coordinates, atol=1e-12)


class Counting:
    """An array on disk, as far as its reader can tell, that remembers what is asked of it."""

    def __init__(self, theta, rows, chunks=True):
        self._theta, self.shape, self.dtype, self._rows = theta, theta.shape, theta.dtype, rows
        if chunks:
            self.chunks = (rows, 1, theta.shape[2])
        self.sizes, self.tiles = [], []

    def __getitem__(self, index):
        rows, checkpoints, _ = index
        self.sizes.append((part := self._theta[index]).size)
        self.tiles += [
            (row, checkpoint)
            for row in range(rows.start // self._rows, -(-rows.stop // self._rows))
            for checkpoint in range(checkpoints.start, checkpoints.stop)
        ]
        return part


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("chunks", [True, False])
def test_streaming_reads_a_chunk_at_a_time_and_each_once_a_pass(centre, chunks, rng):
    theta = trajectories(rng, 6, 10, 50)
    source, told = Counting(theta, 2, chunks), []
    found = principal_components(
        source, 2, centre=centre, route="stream", most_bytes=4 * 2 * 50, tolerance=TIGHT, progress=told.append
    )
    alike(found, dense(theta, 2, centre))
    assert max(source.sizes) == 2 * 50  # of 3000
    passes = sum("pass" in text for text in told) + 1 + (centre == "mean")  # and the coordinates, and the mean
    ends = {"mean": None, "init": 0, "final": 9}[centre]
    for tile in {(row, checkpoint) for row in range(3) for checkpoint in range(10)}:
        assert source.tiles.count(tile) == passes + (tile[1] == ends)  # once more for the record
    assert len(told) == passes


def test_the_gram_route_reads_every_chunk_twice_and_once_for_each_slice(rng):
    theta = trajectories(rng, 6, 10, 70)
    source = Counting(theta, 2)
    found = principal_components(source, 2, route="gram", most_bytes=60 * 4 * 25)  # three slices of 25 params or fewer
    alike(found, dense(theta, 2))
    assert max(source.sizes) == 2 * 70
    assert all(source.tiles.count((row, checkpoint)) == 3 + 2 for row in range(3) for checkpoint in range(10))
    assert sum(source.sizes) == 3 * theta.size
    few = Counting(theta[:, :, :20], 2)  # fewer params than points: the mean, C, directions, coordinates
    alike(principal_components(few, 2, route="gram", most_bytes=2000), dense(theta[:, :, :20], 2))
    assert sum(few.sizes) == 4 * few._theta.size


@pytest.mark.parametrize("route", ["gram", "stream"])
@pytest.mark.parametrize("num_params", [20, 70])
def test_products_may_be_divided_among_threads(route, num_params, rng, monkeypatch):
    monkeypatch.setattr(components, "PIECE", 0)
    monkeypatch.setattr(components, "num_cores", lambda: 3)
    theta, weights = trajectories(rng, 5, 12, num_params), rng.uniform(1, 2, 12)
    found = principal_components(theta, 2, weights=weights, route=route, most_bytes=9000, tolerance=TIGHT)
    alike(found, dense(theta, 2, "mean", weights))


@pytest.mark.parametrize("route", ["gram", "stream"])
def test_chunks_without_chosen_seeds_are_not_read(route, rng):
    theta = trajectories(rng, 9, 5, 60)
    for chunks, expected in ((True, {0, 2}), (False, {0, 2})):
        source = Counting(theta, 3, chunks)
        alike(
            principal_components(source, 2, seeds=[7, 1, 0], route=route, most_bytes=2000, tolerance=TIGHT),
            dense(theta[[7, 1, 0]], 2),
        )
        assert {row for row, _ in source.tiles} == expected
        assert max(source.sizes) <= 3 * 60


def test_memory_does_not_grow_with_the_number_of_points(rng, monkeypatch):
    """The largest block of float64 rows is what `most_bytes` allows."""
    largest, own = [], reading.Points.blocks

    def watched(self):
        for at, rows in own(self):
            largest.append(rows.nbytes)
            yield at, rows

    monkeypatch.setattr(reading.Points, "blocks", watched)
    for num in (3, 30):
        largest.clear()
        principal_components(Counting(trajectories(rng, num, 8, 100), 2), 1, route="stream", most_bytes=4000)
        assert max(largest) <= 4000


def test_streaming_restarts_and_remembers(rng):
    """Slowly falling variances take more vectors than are kept."""
    points = rng.standard_normal((300, 200))
    told = []
    found = principal_components(points, 2, route="stream", progress=told.append)
    assert len(told) > 2 * components.MOST_BLOCKS
    alike(found, dense(points, 2), 1e-6)


@pytest.mark.parametrize("num_params", [1, 5, 9, 13])
def test_streaming_ends_where_it_has_seen_all_of_weight_space(num_params, rng):
    num = min(3, num_params)
    points = rng.standard_normal((40, num_params)) * np.linspace(2, 1, num_params)
    alike(principal_components(points, num, route="stream", tolerance=TIGHT), dense(points, num))
    few = rng.standard_normal((num + 1, 200))  # fewer points than vectors in a block
    alike(principal_components(few, num, route="stream", tolerance=TIGHT), dense(few, num))


def test_the_route_depends_on_size_and_case(rng, monkeypatch):
    taken = []
    for name in ("_by_scikit_learn", "_by_gram", "_by_streaming"):
        own = getattr(components, name)
        monkeypatch.setattr(components, name, lambda *args, n=name, f=own: taken.append(n) or f(*args))
    points = rng.standard_normal((8, 40))
    principal_components(points)
    principal_components(points, weights=np.ones(8))
    principal_components(points, weights=np.arange(8))
    principal_components(points, centre="final")
    monkeypatch.setattr(components, "MOST_SVD", 7 * 40 * 7 - 1)
    principal_components(points)
    monkeypatch.setattr(components, "MOST_GRAM", 7)
    principal_components(points)
    principal_components(rng.standard_normal((40, 7)))  # few params are as good as few points
    assert taken == [*["_by_scikit_learn"] * 2, *["_by_gram"] * 3, "_by_streaming", "_by_gram"]
    with pytest.raises(ValueError, match="the Gram matrix of 8 points with 40 params takes 0 GB: use the route stream"):
        principal_components(points, route="gram")


def test_checkpoints_weigh_alike_or_by_their_steps():
    np.testing.assert_allclose(schedule_weights(np.array([0, 1, 10])), 1 / 3)
    np.testing.assert_allclose(schedule_weights(np.array([0, 2, 10]), "step"), [0.1, 0.5, 0.4])
    assert schedule_weights(np.array([0, 1, 10, 100, 250]), "step").sum() == pytest.approx(1)
    assert schedule_weights(np.array([3])).tolist() == [1]
    with pytest.raises(ValueError, match=r"steps = \[0, 0, 1\]: ascending steps"):
        schedule_weights(np.array([0, 0, 1]))
    for steps in ([2, 1], [4]):
        with pytest.raises(ValueError, match="ascending steps"):
            schedule_weights(np.array(steps), "step")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("theta", "num", "match"),
    [
        (np.eye(2), 2, "2 principal components take at least 3 points, got 2$"),
        (np.eye(2), 0, "num = 0: at least one component"),
        (np.outer(np.arange(4.0), [1, 2, 3]), 2, r"the 4 points span fewer than 2 dimensions: .* 1\.[78]e\+01, .*e-"),
        (np.zeros((3, 7)), 1, "the 3 points span fewer than 1 dimensions"),
        (np.full((3, 7), 0.1), 1, "the 3 points span fewer than 1 dimensions"),
        (np.full((30, 7), 1e9 / 3), 1, "the 30 points span fewer than 1 dimensions"),
        (np.ones((5, 1)), 2, "2 principal components take as many params, got 1"),
        (np.ones(5), 1, r"points have shape \(5,\): \(point, param\) or \(seed, checkpoint, param\)"),
        (np.ones((0, 4)), 1, r"points have shape \(0, 4\): there are none"),
        (np.ones((4, 0)), 1, r"points have shape \(4, 0\): there are none"),
    ],
)
def test_points_without_enough_dimensions_are_refused(route, theta, num, match):
    with pytest.raises(ValueError, match=match):
        principal_components(theta, num, route=route)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("num_params", [4, 500])
def test_networks_that_differ_by_rounding_are_equal(route, num_params, rng):
    """The neighbouring float32 numbers on either side are the same network; the same distances in float64 are not."""
    one = rng.standard_normal(num_params).astype(np.float32)
    away = rng.choice(np.array([-np.inf, np.inf], np.float32), (9, num_params))
    points = np.nextafter(one, away)
    with pytest.raises(ValueError, match="the 9 points span fewer than 1 dimensions"):
        principal_components(points, 1, route=route)
    found = principal_components(points.astype(np.float64), 1, route=route)
    assert 0 < found.total < 1e-13 * num_params
    with pytest.raises(ValueError, match="span fewer than 1"):
        principal_components(np.stack([points, points]), 1, centre="init", route="gram" if route != "stream" else route)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("lazy", [False, True])
def test_seeds_that_are_not_finite_are_named(route, lazy, rng):
    theta = trajectories(rng, 8)
    theta[[1, 5, 7], [2, 11, 0], [5, 0, 59]] = np.inf, -np.inf, np.nan
    source = Counting(theta, 2) if lazy else theta
    with pytest.raises(ValueError, match=r"points at positions \[1, 5, 7\] along the first axis are not finite"):
        principal_components(source, route=route, most_bytes=5000)
    with pytest.raises(ValueError, match=r"positions \[5, 7\]"):
        principal_components(source, route=route, most_bytes=5000, seeds=[7, 0, 5, 3])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": np.ones(3)}, r"weights have shape \(3,\): one for each checkpoint, \(12,\), is expected"),
        ({"weights": np.ones((5, 12))}, r"weights have shape \(5, 12\)"),
        ({"weights": np.zeros(12)}, "numbers that are not negative, nor all zero"),
        ({"weights": np.append(-1.0, np.ones(11))}, "numbers that are not negative"),
        ({"weights": np.append(np.nan, np.ones(11))}, "numbers that are not negative"),
        ({"seeds": [0, 5]}, r"seeds = \[0, 5\]: positions from 0 to 4"),
        ({"seeds": [-1, 2]}, r"seeds = \[-1, 2\]: positions from 0 to 4"),
        ({"seeds": [True, False, True, True, True]}, r"for a mask np\.flatnonzero\(mask\)"),
        ({"seeds": []}, r"points have shape \(0, 12, 60\): there are none"),
    ],
)
def test_what_does_not_fit_is_refused(options, match, rng):
    with pytest.raises(ValueError, match=match):
        principal_components(trajectories(rng), **options)


def test_points_without_weight_do_not_count(rng):
    points = rng.standard_normal((6, 9))
    with pytest.raises(ValueError, match="take at least 3 points, got 2 whose weight is not 0, of 6"):
        principal_components(points, 2, weights=np.array([1, 0, 0, 2, 0, 0]))
    with pytest.raises(ValueError, match=r"weights have shape \(5,\): one for each point, \(6,\)"):
        principal_components(points, 2, weights=np.ones(5))


def test_scikit_learn_refuses_what_it_does_not_know_and_streaming_what_it_does_not_reach(rng, monkeypatch):
    with pytest.raises(ValueError, match="knows neither weights nor another centre"):
        principal_components(trajectories(rng), centre="init", route="scikit-learn")
    with pytest.raises(ValueError, match=r"streaming ended with a relative residual of .*e-1\d, 1e-18 is expected"):
        principal_components(rng.standard_normal((30, 10)), route="stream", tolerance=1e-18)
    monkeypatch.setattr(components, "MOST_PASSES", 2)
    with pytest.raises(ValueError, match="in 2 passes, 1e-08 is expected"):
        principal_components(trajectories(rng), route="stream")


def test_results_are_plain_arrays_of_float64(rng):
    found = principal_components(jnp.asarray(trajectories(rng)), 2)
    for field in dataclasses.fields(found)[:-1]:
        value = getattr(found, field.name)
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float64
    assert isinstance(found.total, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.total = 0.0  # type: ignore[misc]
    whole = principal_components(np.arange(12).reshape(4, 3) ** 2, 1)  # integers too
    alike(whole, dense(np.arange(12.0).reshape(4, 3) ** 2, 1), 1e-10)
