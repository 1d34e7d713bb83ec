import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from analysis import travel as module
from analysis.projection import walk
from analysis.travel import apart, together, travel
from wspace.tree import Layout

STEPS = np.array([0, 1, 3, 10, 20])


def one(theta, steps=STEPS):
    return travel(theta, steps)["all"]


def test_a_straight_line_is_straight():
    direction = np.array([3.0, 4.0])
    theta = np.array([1.0, -2.0]) + np.multiply.outer([[0, 1, 2, 4, 10]], direction)
    got = one(theta)
    np.testing.assert_allclose(got.from_init, [[0, 5, 10, 20, 50]])
    np.testing.assert_allclose(got.from_final, [[50, 45, 40, 30, 0]])
    np.testing.assert_allclose(got.moved, [[5, 5, 10, 30]])
    np.testing.assert_allclose(got.speed, [[5, 2.5, 10 / 7, 3]])
    np.testing.assert_allclose(got.path, [[0, 5, 10, 20, 50]])
    np.testing.assert_allclose(got.straightness, [1])
    np.testing.assert_allclose(got.angle, [[0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(got.from_init_null, np.sqrt([[0, 25, 50, 150, 1050]]))
    np.testing.assert_allclose(got.straightness_null, np.sqrt(1050) / 50)
    np.testing.assert_allclose(got.norm, np.linalg.norm(theta, axis=2))


def test_turns_on_a_polygon_are_its_outer_angles():
    """Eight corners of a regular octagon, once around."""
    at = 2 * np.pi * np.arange(9) / 8
    theta = np.stack([np.cos(at), np.sin(at)], axis=1)[None]
    got = one(theta, np.arange(9))
    np.testing.assert_allclose(got.angle, 45)
    np.testing.assert_allclose(got.moved, 2 * np.sin(np.pi / 8))
    np.testing.assert_allclose(got.straightness, 0, atol=1e-12)
    there_and_back = np.array([[[0.0], [1.0], [0.0]]])
    np.testing.assert_allclose(one(there_and_back, np.arange(3)).angle, 180)


def test_small_turns_are_not_lost_in_rounding():
    tiny = 1e-9
    theta = np.array([[[0.0, 0.0], [1.0, 0.0], [2.0, tiny]]])
    np.testing.assert_allclose(one(theta, np.arange(3)).angle, np.degrees(tiny), rtol=1e-6)


def test_walks_agree_with_their_null(rng):
    norms = rng.uniform(0.5, 2, (200, 20))
    walks = np.concatenate([walk(own[None], 500, rng=rng) for own in norms])
    got = one(walks, np.arange(21))
    np.testing.assert_allclose(got.moved, norms, rtol=1e-9)
    ratio = np.mean(np.square(got.from_init[:, 1:]) / np.square(got.from_init_null[:, 1:]), axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.03)
    np.testing.assert_allclose(got.straightness / got.straightness_null, 1, atol=0.3)
    assert got.angle.mean() == pytest.approx(90, abs=0.2)
    wide = travel(np.pad(walks, ((0, 0), (0, 0), (0, 500 - walks.shape[2]))), np.arange(21))["all"]
    assert wide.angle.std() == pytest.approx(wide.angle_spread, rel=0.1)


@given(st.data())
def test_distances_are_those_of_a_plain_loop(data):
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(2, 5)), data.draw(st.integers(1, 6)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    theta, steps = rng.standard_normal(shape), np.cumsum(rng.integers(1, 9, shape[1]))
    got = travel(theta, steps)["all"]
    for s in range(shape[0]):
        for t in range(shape[1]):
            assert got.from_init[s, t] == pytest.approx(np.linalg.norm(theta[s, t] - theta[s, 0]))
            assert got.from_final[s, t] == pytest.approx(np.linalg.norm(theta[s, t] - theta[s, -1]))
        moves = np.diff(theta[s], axis=0)
        for t in range(1, len(moves)):
            cosine = moves[t - 1] @ moves[t] / np.linalg.norm(moves[t - 1]) / np.linalg.norm(moves[t])
            assert got.angle[s, t - 1] == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))), abs=1e-5)


def test_time_reversed_and_rotated_and_moved_trajectories_are_as_long_and_as_straight(rng):
    theta = rng.standard_normal((3, 5, 8)).cumsum(axis=1)
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    plain, back, turned = one(theta), one(theta[:, ::-1], np.arange(5)), one(3 * theta @ rotation + 1)
    np.testing.assert_allclose(back.moved, plain.moved[:, ::-1])
    np.testing.assert_allclose(back.angle, plain.angle[:, ::-1])
    np.testing.assert_allclose(back.straightness, plain.straightness)
    np.testing.assert_allclose(turned.moved, 3 * plain.moved)
    np.testing.assert_allclose(turned.angle, plain.angle)


def test_layers_add_up_to_the_whole(rng):
    layout = Layout.of(({"weight": np.zeros((2, 3)), "bias": np.zeros(3)}, {"weight": np.zeros((3, 1))}, np.zeros(2)))
    theta = rng.standard_normal((4, 5, layout.size)).astype(np.float32)
    got = travel(theta, STEPS, layout=layout)
    assert list(got) == ["all", "0", "1", "2"]
    layers = [got[name] for name in ("0", "1", "2")]
    assert [of.num_params for of in layers] == [9, 3, 2]
    for name in ("norm", "from_init", "from_final", "moved"):
        total = sum(np.square(getattr(of, name)) for of in layers)
        np.testing.assert_allclose(np.square(getattr(got["all"], name)), total, rtol=1e-12)
    alone = travel(theta[:, :, layout.offsets[2] : layout.offsets[2] + 3], STEPS)["all"]
    np.testing.assert_allclose(got["1"].angle, alone.angle)


class Counting:
    """An array on disk, as far as its reader can tell."""

    def __init__(self, theta):
        self._theta, self.shape, self.sizes = theta, theta.shape, []

    def __getitem__(self, index):
        part = self._theta[index]
        self.sizes.append(part.size)
        return part


def test_few_checkpoints_of_few_seeds_are_read_at_a_time(rng, monkeypatch, tmp_path):
    theta = rng.standard_normal((6, 5, 10)).astype(np.float32)
    expected = one(theta[[0, 2, 3, 5]])
    monkeypatch.setattr(module, "CHUNK_VALUES", 20)
    source = Counting(theta)
    stored = zarr.create_array(tmp_path / "theta.zarr", shape=theta.shape, chunks=(4, 1, 10), dtype="float32")
    stored[:] = theta
    for points in (source, stored, jnp.asarray(theta)):
        got = travel(points, STEPS, seeds=[0, 2, 3, 5])["all"]
        for name in ("norm", "from_init", "from_final", "moved", "angle"):
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-12)
    assert max(source.sizes) == 2 * 10


def test_distances_between_seeds_at_every_checkpoint(rng, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_VALUES", 12)
    theta = rng.standard_normal((4, 3, 10)).astype(np.float32)
    theta[2] = theta[0]
    got = apart(theta)
    assert got.shape == (3, 4, 4)
    wide = theta.astype(float)
    for t in range(3):
        expected = np.linalg.norm(wide[:, None, t] - wide[None, :, t], axis=2)
        np.testing.assert_allclose(got[t], expected, rtol=1e-12, atol=1e-12)
        assert got[t, 0, 2] == 0
    np.testing.assert_array_equal(apart(theta, seeds=[3, 1]), got[:, [3, 1]][:, :, [3, 1]])
    assert apart(theta[:1]).tolist() == [[[0.0]]] * 3


def test_cosines_between_displacements_at_every_checkpoint(rng):
    theta = rng.standard_normal((5, 4, 300)).astype(np.float32)
    theta[1] = 3 * theta[0] + 1  # moves alike, from elsewhere and farther
    theta[2] = -theta[0]
    got = together(theta)
    assert np.isnan(got[0]).all()
    moves = theta.astype(float) - theta[:, :1].astype(float)
    for t in range(1, 4):
        sizes = np.linalg.norm(moves[:, t], axis=1)
        np.testing.assert_allclose(got[t], moves[:, t] @ moves[:, t].T / np.outer(sizes, sizes), rtol=1e-12, atol=1e-12)
        assert got[t, 0, 1] == pytest.approx(1, abs=1e-6)
        assert got[t, 0, 2] == pytest.approx(-1, abs=1e-12)
        assert np.abs(got[t, 0, 3:]).max() < 5 / np.sqrt(300)
        assert np.diag(got[t]).tolist() == [1] * 5
    np.testing.assert_allclose(together(theta, seeds=[3, 1])[1:], got[1:, [3, 1]][:, :, [3, 1]])
    theta[4, 2] = theta[4, 0]
    np.testing.assert_array_equal(np.isnan(together(theta)[2]), np.eye(5)[4][:, None] + np.eye(5)[4] > 0)


def test_distances_and_cosines_of_an_array_on_disk_are_read_checkpoint_by_checkpoint(rng):
    theta = rng.standard_normal((4, 3, 10)).astype(np.float32)
    for measure in (apart, together):
        source = Counting(theta)
        np.testing.assert_array_equal(measure(source, seeds=[0, 2, 3]), measure(theta[[0, 2, 3]]))
        assert max(source.sizes) == 3 * 10


def test_degenerate_trajectories(rng):
    theta = rng.standard_normal((3, 5, 4))
    theta[1] = theta[1, :1]
    theta[2, 2] = theta[2, 1]
    got = one(theta)
    assert np.isnan(got.straightness).tolist() == [False, True, False]
    assert np.isnan(got.straightness_null).tolist() == [False, True, False]
    assert np.isnan(got.angle).tolist() == [[False] * 3, [True] * 3, [True, True, False]]
    assert one(theta[:, :2], STEPS[:2]).angle.shape == (3, 0)
    with pytest.raises(ValueError, match="at least two checkpoints"):
        one(theta[:, :1], STEPS[:1])
    with pytest.raises(ValueError, match="at least two checkpoints at ascending steps"):
        one(theta, STEPS[::-1].copy())
    with pytest.raises(ValueError, match="for 2 steps"):
        one(theta, STEPS[:2])
    with pytest.raises(ValueError, match="theta has 4 params, the layout 3"):
        travel(theta, STEPS, layout=Layout.of(np.zeros(3)))
    theta[0, 1, 2] = np.inf
    with pytest.raises(ValueError, match=r"seeds at positions \[0\] are not finite"):
        one(theta)
    for measure in (apart, together):
        with pytest.raises(ValueError, match=r"seeds at positions \[0\] are not finite"):
            measure(theta)
        assert np.isfinite(measure(theta, seeds=[1, 2])[1:]).any()


@pytest.mark.parametrize("measure", [lambda theta, **kw: travel(theta, STEPS, **kw), apart, together])
def test_seeds_that_are_no_positions_are_refused(rng, measure):
    theta = rng.standard_normal((3, 5, 4))
    with pytest.raises(ValueError, match=r"theta has shape \(3, 5\)"):
        measure(theta[:, :, 0])
    for seeds in ([], [True, False, True]):
        with pytest.raises(ValueError, match="one or more positions"):
            measure(theta, seeds=seeds)
