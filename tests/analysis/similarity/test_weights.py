import dataclasses

import jaxtyping
import numpy as np
import pytest
from scipy.spatial.distance import cosine as cosine_distance
from scipy.spatial.distance import pdist

from analysis.similarity import distances, weights
from analysis.statistics import Estimate, bootstrap_seeds, median_over_pairs, pair_values

MATRICES = ("end", "init", "cosine", "orthogonal_moves", "orthogonal_ends")
VECTORS = ("travelled", "norm")
ARRAYS = MATRICES + VECTORS


def measure(theta_init, theta_final):
    return distances(theta_init, theta_final, rng=np.random.default_rng(0))


def assert_same(got, expected, names=ARRAYS, atol=1e-12):
    for name in names:
        np.testing.assert_allclose(
            getattr(got, name), getattr(expected, name), rtol=1e-12, atol=atol, err_msg=name, strict=True
        )


def listed_median(matrix, seeds):
    return np.median([matrix[i, j] for n, i in enumerate(seeds) for j in seeds[:n] if i != j])


def existing(value):
    assert value is not None
    return value


@pytest.fixture
def walks(rng):
    """Six seeds in 40 dimensions, moved as far as they were apart."""
    theta = rng.standard_normal((6, 40))
    return theta, theta + rng.standard_normal((6, 40))


@pytest.fixture
def unchecked():
    """Signatures unchecked, as for a user: jaxtyping would refuse these arguments before the function does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_equals_brute_force_in_float64(walks, dtype):
    theta_init, theta_final = (theta.astype(dtype) for theta in walks)
    got = measure(theta_init, theta_final)
    start, end = theta_init.astype(np.float64), theta_final.astype(np.float64)
    moves = end - start
    assert got.num_params == 40
    for i in range(6):
        np.testing.assert_allclose(got.travelled[i], np.linalg.norm(moves[i]), rtol=1e-14)
        np.testing.assert_allclose(got.norm[i], np.linalg.norm(end[i]), rtol=1e-14)
        np.testing.assert_allclose(got.cosine[i, i], 1, rtol=1e-14)
        for name in ("end", "init", "orthogonal_moves", "orthogonal_ends"):
            assert getattr(got, name)[i, i] == 0
        for j in set(range(6)) - {i}:
            apart = np.linalg.norm(start[i] - start[j])
            expected = {
                "end": np.linalg.norm(end[i] - end[j]),
                "init": apart,
                "cosine": 1 - cosine_distance(moves[i], moves[j]),
                "orthogonal_moves": np.linalg.norm([apart, *np.linalg.norm(moves[[i, j]], axis=1)]),
                "orthogonal_ends": np.linalg.norm(np.concatenate([end[i], end[j]])),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(got, name)[i, j], value, rtol=1e-13, atol=1e-14, err_msg=name)
    for name in ARRAYS:
        assert getattr(got, name).dtype == np.float64


def test_tiny_differences_at_a_large_offset_are_exact():
    """float32 at 4096 has steps of 2^-11: a subtraction in float64 is exact, |a|^2 + |b|^2 - 2<a, b> is not."""
    step, num_params = 2.0**-11, 1024
    theta_init = np.full((3, num_params), 4096, np.float32)
    theta_final = theta_init + np.float32(step) * np.array([[0], [1], [3]], np.float32)
    got = measure(theta_init, theta_final)
    side = step * np.sqrt(num_params)
    np.testing.assert_array_equal(got.end, side * np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]]))
    np.testing.assert_array_equal(got.travelled, side * np.array([0, 1, 3]))
    np.testing.assert_array_equal(got.init, np.zeros((3, 3)))


@pytest.mark.parametrize("chunk_values", [1, 7, 100])
def test_chunks_bound_what_is_held_at_once_and_change_nothing(monkeypatch, walks, chunk_values):
    whole, sizes = measure(*walks), []
    monkeypatch.setattr(weights, "CHUNK_VALUES", chunk_values)
    monkeypatch.setattr(weights, "pdist", lambda rows, metric: sizes.append(rows.size) or pdist(rows, metric))
    chunked = measure(*walks)
    assert max(sizes) <= max(6, chunk_values)  # one param of all seeds at least
    assert sum(sizes) == 3 * 6 * 40
    assert_same(chunked, whole)
    np.testing.assert_allclose(existing(chunked.ratio).value, existing(whole.ratio).value, rtol=1e-12)


def test_a_common_translation_changes_only_what_is_measured_from_the_origin(walks, rng):
    shift = rng.standard_normal(40)
    moved, still = measure(*(theta + shift for theta in walks)), measure(*walks)
    assert_same(moved, still, ("end", "init", "travelled", "cosine", "orthogonal_moves"))
    assert not np.allclose(moved.norm, still.norm)
    np.testing.assert_allclose(moved.norm, np.linalg.norm(walks[1] + shift, axis=1), rtol=1e-12)


def test_a_rotation_of_weight_space_changes_nothing(walks, rng):
    rotation = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    assert_same(measure(*(theta @ rotation for theta in walks)), measure(*walks))


def test_a_scale_of_weight_space_scales_distances_and_no_angle(walks):
    once, thrice = measure(*walks), measure(*(3 * theta for theta in walks))
    for name in set(ARRAYS) - {"cosine"}:
        np.testing.assert_allclose(getattr(thrice, name), 3 * getattr(once, name), rtol=1e-12, err_msg=name)
    assert_same(thrice, once, ("cosine",))
    np.testing.assert_allclose(existing(thrice.ratio).value, existing(once.ratio).value, rtol=1e-12)


def test_a_permutation_of_the_seeds_permutes_everything(walks, rng):
    perm = rng.permutation(6)
    got, ordered = measure(*(theta[perm] for theta in walks)), measure(*walks)
    for name in MATRICES:
        np.testing.assert_allclose(getattr(got, name), getattr(ordered, name)[np.ix_(perm, perm)], rtol=1e-12)
    for name in VECTORS:
        np.testing.assert_allclose(getattr(got, name), getattr(ordered, name)[perm], rtol=1e-12)
    np.testing.assert_allclose(existing(got.ratio).value, existing(ordered.ratio).value, rtol=1e-12)


def test_identical_rows_are_at_exactly_no_distance(walks):
    theta_init, theta_final = (theta.copy() for theta in walks)
    theta_init[4], theta_final[4] = theta_init[1], theta_final[1]
    got = measure(theta_init, theta_final)
    assert got.end[1, 4] == got.init[1, 4] == 0
    np.testing.assert_allclose(got.cosine[1, 4], 1, rtol=1e-14)


def test_orthogonal_moves_from_one_init_end_as_far_apart_as_that_null_says(rng):
    lengths = np.array([1.0, 2.0, 3.0, 0.5])
    theta_init = np.repeat(rng.standard_normal((1, 10)), 4, axis=0)
    directions = np.linalg.qr(rng.standard_normal((10, 4)))[0].T
    got = measure(theta_init, theta_init + lengths[:, None] * directions)
    np.testing.assert_allclose(got.end, got.orthogonal_moves, rtol=1e-12)
    np.testing.assert_allclose(got.end[1, 2], np.sqrt(4 + 9), rtol=1e-12)
    np.testing.assert_allclose(got.cosine, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(got.travelled, lengths, rtol=1e-12)
    assert got.change is None  # all inits are equal


def test_moves_at_right_angles_to_each_other_and_to_the_line_between_inits_meet_that_null_too():
    axes = np.eye(6)
    theta_init = np.stack([np.zeros(6), 2 * axes[0], 3 * axes[1]])
    got = measure(theta_init, theta_init + np.array([[1.0], [4.0], [5.0]]) * axes[3:])
    np.testing.assert_allclose(got.end, got.orthogonal_moves, rtol=1e-14)
    np.testing.assert_allclose(pair_values(got.end), np.sqrt([4 + 1 + 16, 9 + 1 + 25, 13 + 16 + 25]), rtol=1e-14)


def test_moves_along_one_direction_are_nearer_and_against_each_other_farther_than_the_null():
    axis = np.eye(3)[:1]
    got = measure(np.zeros((3, 3)), np.array([[1.0], [2.0], [-2.0]]) * axis)
    np.testing.assert_array_equal(pair_values(got.cosine), [1, -1, -1])
    assert got.end[0, 1] < got.orthogonal_moves[0, 1]
    assert got.end[1, 2] > got.orthogonal_moves[1, 2]


def test_independent_gaussian_ends_are_as_far_apart_as_unrelated_directions(rng):
    """Relative deviations are about cos / 2, and the cosine of two directions in P dimensions is about 1/sqrt(P)."""
    theta = rng.standard_normal((8, 20_000)) * np.linspace(1, 3, 8)[:, None]
    got = measure(np.zeros_like(theta), theta)
    np.testing.assert_allclose(got.end, got.orthogonal_ends, rtol=4 / (2 * np.sqrt(20_000)))
    np.testing.assert_allclose(got.cosine, np.eye(8), atol=4.5 / np.sqrt(20_000))


def test_seeds_that_did_not_move_have_no_direction(rng):
    """In most dimensions the rounding of |a|^2 + 0 - |a - 0|^2 over 0 is infinite, not NaN."""
    theta_init = rng.standard_normal((5, 1000))
    theta_final = theta_init + rng.standard_normal((5, 1000))
    theta_final[[1, 3]] = theta_init[[1, 3]]
    got = measure(theta_init, theta_final)
    still = np.isin(np.arange(5), [1, 3])
    np.testing.assert_array_equal(np.isnan(got.cosine), still[:, None] | still[None])
    np.testing.assert_array_equal(got.travelled == 0, still)
    assert np.isfinite(got.end).all()


def test_ratios_are_medians_over_medians_with_both_resampled_together(walks):
    got = measure(*walks)
    init, end = (np.linalg.norm(theta[:, None] - theta[None], axis=2) for theta in walks)
    travelled = np.linalg.norm(walks[1] - walks[0], axis=1)
    everything, rng = np.arange(6), np.random.default_rng(0)

    def against_travel(resamples):
        return np.array([listed_median(end, seeds) / np.median(travelled[seeds]) for seeds in resamples])

    def against_init(resamples):
        return np.array([listed_median(end, seeds) / listed_median(init, seeds) for seeds in resamples])

    for estimate, statistic in ((existing(got.ratio), against_travel), (existing(got.change), against_init)):
        assert (estimate.n, estimate.unit) == (6, "")
        np.testing.assert_allclose(estimate.value, statistic(everything[None])[0], rtol=1e-12)
        ci = existing(bootstrap_seeds(statistic, 6, rng=rng, pairs=True))
        np.testing.assert_allclose(existing(estimate.ci), ci, rtol=1e-12)


def test_the_ratio_of_equal_orthogonal_moves_is_the_root_of_two_in_every_resample():
    ratio = existing(measure(np.zeros((5, 5)), 7 * np.eye(5)).ratio)
    np.testing.assert_allclose([ratio.value, *existing(ratio.ci)], np.sqrt(2), rtol=1e-14)


def test_one_generator_gives_one_result(walks):
    assert dataclasses.astuple(measure(*walks))[-3:] == dataclasses.astuple(measure(*walks))[-3:]


def test_ratios_are_missing_where_there_is_nothing_to_divide(walks):
    theta_init, theta_final = walks
    alone = measure(theta_init[:1], theta_final[:1])
    assert alone.ratio is alone.change is None
    assert alone.end.shape == (1, 1)
    two = measure(theta_init[:2], theta_final[:2])
    assert two.ratio == Estimate(two.end[0, 1] / np.median(two.travelled), None, 2)
    assert two.change == Estimate(two.end[0, 1] / two.init[0, 1], None, 2)
    still = measure(theta_init, theta_init)
    assert still.ratio is None
    assert still.change == Estimate(1.0, (1.0, 1.0), 6)


def test_a_ratio_that_some_resamples_make_infinite_has_no_interval(walks):
    theta_init, theta_final = (theta.copy() for theta in walks)
    theta_final[[0, 1]] = theta_init[[0, 1]]
    ratio = existing(measure(theta_init, theta_final).ratio)
    assert np.isfinite(ratio.value)
    assert ratio.ci is None


def test_shapes_that_differ_are_refused(walks, unchecked):
    theta_init, theta_final = walks
    with pytest.raises(ValueError, match=r"theta_init has shape \(6, 40\), theta_final \(5, 40\)"):
        measure(theta_init, theta_final[:5])
    with pytest.raises(ValueError, match=r"theta_final \(6, 39\)"):
        measure(theta_init, theta_final[:, 1:])


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="not empty"):
        measure(np.zeros((0, 4)), np.zeros((0, 4)))


@pytest.mark.parametrize("where", ["init", "final", "both"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(walks, where, value):
    theta_init, theta_final = (theta.copy() for theta in walks)
    for name, theta in (("init", theta_init), ("final", theta_final)):
        if where in (name, "both"):
            theta[[2, 5], 7] = value
    with pytest.raises(ValueError, match=r"seeds at positions \[2, 5\] are not finite"):
        measure(theta_init, theta_final)


def test_median_over_pairs_counts_seeds_and_leaves_the_diagonal_out(walks):
    matrix = measure(*walks).end
    expected = bootstrap_seeds(
        lambda resamples: np.array([listed_median(matrix, seeds) for seeds in resamples]),
        6,
        rng=np.random.default_rng(2),
        pairs=True,
    )
    np.fill_diagonal(matrix, np.nan)
    got = median_over_pairs(matrix, rng=np.random.default_rng(2), unit="nats")
    assert got == Estimate(np.median(pair_values(matrix)), got.ci, 6, "nats")
    np.testing.assert_allclose(existing(got.ci), existing(expected), rtol=1e-12)
    assert median_over_pairs(matrix[:2, :2], rng=np.random.default_rng(2)) == Estimate(matrix[0, 1], None, 2)
