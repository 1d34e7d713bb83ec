import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from analysis.similarity import samples_around
from analysis.similarity.samples import WAYS, Samples, diagonal, low_rank, subspace
from wspace.data import Dataset
from wspace.models import MLP
from wspace.tree import Layout


@dataclasses.dataclass(frozen=True)
class Direction:
    """Two classes by the side of a line through the origin of a plane: theta is its normal."""

    def apply(self, params, x):
        side = x @ params["theta"]
        return jnp.stack([side, -side], axis=-1)


def late_checkpoints(rng, length=9, num_params=30):
    return np.cumsum(rng.standard_normal((length, num_params)) * np.geomspace(1, 0.1, num_params), axis=0)


def dataset(x, y, task="classification", num_outputs=2):
    return Dataset("own", task, x, y, x, y, num_outputs, x.shape[1:], (), ())


def circle(num=2000):
    at = 2 * np.pi * (np.arange(num) + 0.5) / num
    return np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)


@pytest.mark.parametrize("draw", WAYS.values())
def test_every_way_takes_the_same_arguments_and_stays_at_scale_zero(draw, rng):
    names = list(inspect.signature(draw).parameters)
    assert names[:3] == ["centre", "late", "num"]
    assert {"scale", "rng"} <= set(names)
    late = late_checkpoints(rng)
    np.testing.assert_array_equal(draw(late[-1], late, 3, scale=0.0, rng=rng), np.tile(late[-1], (3, 1)))
    still = np.ones((4, 30))
    np.testing.assert_array_equal(draw(still[-1], still, 2, scale=5.0, rng=rng), np.ones((2, 30)))


def test_diagonal_samples_have_each_params_spread(rng):
    late = late_checkpoints(rng)
    drawn = diagonal(late[-1], late, 20_000, scale=2.0, rng=rng) - late[-1]
    np.testing.assert_allclose(drawn.std(axis=0), 2 * late.std(axis=0), rtol=0.05)
    correlation = np.corrcoef(drawn.T) - np.eye(30)
    assert np.abs(correlation).max() < 0.05


def test_low_rank_samples_lie_in_the_span_with_the_components_spread(rng):
    late = late_checkpoints(rng)
    drawn = low_rank(late[-1], late, 20_000, scale=0.5, rng=rng, rank=3) - late[-1]
    centred = late - late.mean(axis=0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(drawn - drawn @ vt[:3].T @ vt[:3], 0, atol=1e-9)
    np.testing.assert_allclose((drawn @ vt[:3].T).std(axis=0), 0.5 * s[:3] / np.sqrt(len(late)), rtol=0.05)


def test_subspace_samples_are_as_long_as_low_rank_ones_in_other_directions(rng):
    late = late_checkpoints(rng, num_params=200)
    lengths = [
        np.sqrt(np.mean(np.sum((draw(late[-1], late, 5000, scale=1.0, rng=rng) - late[-1]) ** 2, axis=1)))
        for draw in (low_rank, subspace)
    ]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.05)
    drawn = subspace(late[-1], late, 50, scale=1.0, rng=rng) - late[-1]
    assert np.linalg.matrix_rank(drawn) == 5
    _, _, vt = np.linalg.svd(late - late.mean(axis=0), full_matrices=False)
    assert np.linalg.norm(drawn @ vt[:5].T) < 0.4 * np.linalg.norm(drawn)


def test_a_turned_normal_disagrees_on_its_angle_over_pi(rng):
    """Directions of angle phi disagree on a share phi / pi of a circle; noise gives a known mean angle."""
    x = circle()
    y = (x[:, 0] < 0).astype(np.int32)
    late = np.array([[[1.0, -0.3], [1.0, 0.3], [1.0, 0.0]]] * 2)  # moves across the normal only
    layout = Layout.of({"theta": np.zeros(2)})
    sigma = late[0, :, 1].std()
    scales = (0.0, 0.5, 2.0)
    got = samples_around(Direction(), layout, late, dataset(x, y), scales=scales, num_samples=400, rng=rng)
    noise = rng.standard_normal(100_000)
    for k, scale in enumerate(scales):
        angle = np.mean(np.arctan(np.abs(scale * sigma * noise)))
        for way in ("diagonal", "low_rank"):
            np.testing.assert_allclose(got.distance[way][:, k], angle / np.pi, atol=0.02)
            np.testing.assert_allclose(got.score[way][:, k], 1 - angle / np.pi, atol=0.02)
            np.testing.assert_allclose(got.moved[way][:, k], scale * sigma, rtol=0.15)
    assert np.all(got.distance["subspace"][:, 0] == 0)
    assert np.all(got.restart_distance == 0)
    assert got.ratio("diagonal", rng=rng) is None


def test_as_good_takes_the_farthest_samples_that_keep_the_score(rng):
    score = {"a": np.array([[0.9, 0.895, 0.7], [0.8, 0.795, 0.6], [0.9, 0.5, 0.4]])}
    distance = {"a": np.array([[0.0, 0.05, 0.3], [0.0, 0.02, 0.4], [0.0, 0.1, 0.2]])}
    apart = np.array([[0.0, 0.2, 0.1], [0.2, 0.0, 0.3], [0.1, 0.3, 0.0]])
    got = Samples(np.array([0.0, 1, 2]), score, distance, distance, np.array([0.9, 0.8, 0.9]), apart, 5)
    # the others' mean less 0.01: 0.84, 0.89, 0.84
    np.testing.assert_allclose(got.as_good("a"), [0.05, 0, 0])
    np.testing.assert_allclose(got.as_good("a", 0.31), [0.3, 0.4, 0])
    ratio = got.ratio("a", margin=0.31, rng=rng)
    assert ratio is not None
    assert ratio.value == pytest.approx(0.3 / 0.2)
    assert ratio.n == 3


def test_regressions_have_r_squared_and_root_mean_squares(rng):
    model = MLP((2, 1), "identity")
    x = rng.standard_normal((500, 2)).astype(np.float32)
    y = (x @ np.array([[1.0], [2.0]], np.float32)).astype(np.float32)
    layout = Layout.of(({"weight": np.zeros((2, 1)), "bias": np.zeros(1)},))
    late = np.array(
        [[[0, 1.0, 2.0], [0.2, 1.0, 2.0], [0.1, 1.0, 2.0]], [[0, 1.0, 2.0], [0.2, 1.1, 2.0], [0.0, 1.0, 2.0]]]
    )
    data = dataset(x, y, "regression", 1)
    got = samples_around(model, layout, late, data, scales=(0.0, 1.0), num_samples=300, rng=rng)
    assert got.restart_score[1] == pytest.approx(1)
    assert got.restart_distance[0, 1] == pytest.approx(0.1, rel=1e-4)  # the biases differ by that
    expected = late[0, :, 0].std() * np.sqrt(2 / np.pi)  # mean of |sigma z|: only the bias moves
    assert got.distance["diagonal"][0, 1] == pytest.approx(expected, rel=0.15)
    variance = np.sum((y - y.mean()) ** 2) / len(y)
    assert got.score["diagonal"][0, 0] == pytest.approx(1 - 0.01 / variance, rel=1e-4)


def test_what_cannot_be_sampled_is_refused(rng):
    x = circle(20)
    data = dataset(x, np.zeros(20, np.int32))
    layout, late = Layout.of({"theta": np.zeros(2)}), rng.standard_normal((2, 3, 2))
    for some, match in ((late[:1], "1 restarts with 3"), (late[:, :2], "2 restarts with 2")):
        with pytest.raises(ValueError, match=match):
            samples_around(Direction(), layout, some, data, rng=rng)
    with pytest.raises(ValueError, match="scales"):
        samples_around(Direction(), layout, late, data, scales=(1.0, 0.5), rng=rng)
    empty = dataclasses.replace(data, x_test=x[:0], y_test=data.y_test[:0])
    with pytest.raises(ValueError, match="no test examples"):
        samples_around(Direction(), layout, late, empty, rng=rng)
