import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.similarity import at_equal_distance, at_equal_score, kept_steps, samples_around
from analysis.similarity.samples import WAYS, Samples, Task, diagonal, direction, low_rank, subspace
from wspace.data import Dataset
from wspace.models import MLP
from wspace.tree import Layout


@dataclasses.dataclass(frozen=True)
class Direction:
    """Two classes by the side of a line through the origin of a plane: theta is its normal."""

    def apply(self, params, x):
        side = x @ jnp.ravel(params["theta"])
        return jnp.stack([side, -side], axis=-1)


def late_checkpoints(rng, length=9, num_params=30):
    return np.cumsum(rng.standard_normal((length, num_params)) * np.geomspace(1, 0.1, num_params), axis=0)


def dataset(x, y, task: Task = "classification", num_outputs=2):
    return Dataset("own", task, x, y, x, y, num_outputs, x.shape[1:], (), ())


def circle(num=2000):
    at = 2 * np.pi * (np.arange(num) + 0.5) / num
    return np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)


def made(score, distance, restart_score, apart):
    """A record of one way, `a`, with curves as stated."""
    score, distance, restart_score = (np.array(values, float) for values in (score, distance, restart_score))
    scales, apart, still = np.arange(score.shape[1], dtype=float), np.array(apart, float), np.zeros(len(score), bool)
    curve = {"a": distance}
    return Samples(
        "classification",
        {"a": scales},
        {"a": score},
        curve,
        curve,
        None,
        curve,
        restart_score,
        apart,
        apart,
        None,
        still,
        5,
    )


@pytest.mark.parametrize("draw", [*WAYS.values(), direction])
def test_every_way_takes_the_same_arguments_and_stays_at_scale_zero(draw, rng):
    parameters = inspect.signature(draw).parameters
    assert list(parameters)[:5] == ["centre", "late", "num", "scale", "rng"]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in list(parameters.values())[5:])
    assert parameters["scale"].kind == parameters["rng"].kind == inspect.Parameter.KEYWORD_ONLY
    late = late_checkpoints(rng)
    np.testing.assert_array_equal(draw(late[-1], late, 3, scale=0.0, rng=rng), np.tile(late[-1], (3, 1)))
    one, other = (draw(late[-1], late, 3, scale=s, rng=np.random.default_rng(1)) - late[-1] for s in (1.0, 2.0))
    np.testing.assert_allclose(other, 2 * one, atol=1e-12)
    assert one.shape == (3, 30)


@pytest.mark.parametrize("draw", WAYS.values())
def test_checkpoints_that_do_not_move_have_no_spread(draw, rng):
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


def test_low_rank_takes_as_many_components_as_there_are(rng):
    line = rng.standard_normal(30) * np.arange(4.0)[:, None]
    drawn = low_rank(line[-1], line, 50, scale=1.0, rng=rng) - line[-1]
    assert np.linalg.matrix_rank(drawn, tol=1e-8) == 1


def test_random_steps_are_as_long_as_the_weights(rng):
    model = MLP((3, 4, 2), "relu")
    params = ({"weight": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)},)
    params += ({"weight": rng.standard_normal((4, 2)), "bias": rng.standard_normal(2)},)
    layout = Layout.of(params)
    assert layout.names == Layout.of(model.init(jax.random.key(0))).names
    centre = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    late = centre[None].repeat(3, axis=0)
    plain = direction(centre, late, 4, scale=0.3, rng=rng) - centre
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 0.3 * np.linalg.norm(centre))
    assert np.linalg.matrix_rank(plain) == 4
    filtered = layout.unravel(direction(centre, late, 4, scale=0.3, rng=rng, layout=layout) - centre)
    for moved, layer in zip(filtered, params, strict=True):
        np.testing.assert_array_equal(moved["bias"], 0)
        lengths = np.linalg.norm(moved["weight"], axis=1)
        np.testing.assert_allclose(lengths, np.tile(0.3 * np.linalg.norm(layer["weight"], axis=0), (4, 1)))


def test_kept_steps_go_as_far_as_the_train_score_stays(rng):
    """Along every direction, all tried lengths up to the sample's keep the score; the next one does not."""
    x = circle(500)
    data, model, layout = (
        dataset(x, (x[:, 0] < 0).astype(np.int32)),
        Direction(),
        Layout.of({"theta": np.zeros((2, 1))}),
    )
    centre, lengths = np.array([1.0, 0.0]), (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)
    late = np.tile(centre, (3, 1))
    accuracy = lambda theta: np.mean((theta @ x.T < 0) == data.y_train, axis=1)  # noqa: E731
    for given_up in (0.0, 0.05, 0.3, 1.0):
        draw = kept_steps(model, layout, data, lengths=lengths)
        drawn = draw(centre, late, 12, scale=given_up, rng=np.random.default_rng(2))
        steps = direction(centre, late, 12, scale=1.0, rng=np.random.default_rng(2), layout=layout) - centre
        for sample, step in zip(drawn, steps, strict=True):
            kept = accuracy(centre + np.array(lengths)[:, None] * step) >= 1 - given_up - 1e-9
            first = len(lengths) if kept.all() else int(np.argmin(kept))
            np.testing.assert_allclose(sample, centre + ((0.0, *lengths)[first]) * step, atol=1e-12)
    assert list(inspect.signature(draw).parameters) == ["centre", "late", "num", "scale", "rng"]
    np.testing.assert_allclose(drawn, centre + 51.2 * steps)  # anything may be given up


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
            if scale:  # all errors are disagreements here; samples without any are divided by one example's worth
                np.testing.assert_allclose(got.normalised[way][:, k], 1, atol=0.02)
    assert got.divergence is not None
    for numbers in (got.distance, got.normalised, got.divergence, got.moved):
        assert all(np.all(numbers[way][:, 0] == 0) for way in WAYS)
        assert np.all(np.diff(numbers["diagonal"][:, [0, 2]]) > 0)
    assert got.task == "classification"
    assert not got.still.any()
    assert np.all(got.restart_distance == 0)
    assert at_equal_score(got, "diagonal", rng=rng).ratio == (None,) * 6
    assert at_equal_distance(got, "diagonal", rng=rng).median is None


APART = [[0.0, 0.2, 0.1], [0.2, 0.0, 0.3], [0.1, 0.3, 0.0]]


def test_distance_at_equal_score_is_read_off_each_restarts_curve(rng):
    """Lost scores 0.1 k, 0.2 k and 0.01 k at distances 0.1 k, from the restart on."""
    k = np.arange(1, 4)
    score = [0.9 - 0.1 * k, 0.8 - 0.2 * k, 0.9 - 0.01 * k]
    got = at_equal_score(
        made(score, np.tile(0.1 * k, (3, 1)), [0.9, 0.8, 0.9], APART), "a", margins=(0.0, 0.05, 0.2), rng=rng
    )
    np.testing.assert_allclose(got.distance, [[0, 0.05, 0.2], [0, 0.025, 0.1], [0, 0.3, 0.3]], atol=1e-9)
    np.testing.assert_array_equal(got.beyond, [[False] * 3, [False] * 3, [False, True, True]])
    assert all(ratio is not None and ratio.ci is not None and ratio.n == 3 for ratio in got.ratio)
    assert [ratio.value for ratio in got.ratio if ratio] == pytest.approx([0, 0.05 / 0.2, 1], abs=1e-9)
    for margins in ((), (-0.1,), (np.nan,)):
        with pytest.raises(ValueError, match="margins"):
            at_equal_score(made(score, score, [1, 1, 1], APART), "a", margins=margins, rng=rng)


def test_samples_that_get_better_again_count_by_where_they_last_were_as_good(rng):
    got = made([[0.8, 0.9, 0.7]] * 3, [[0.1, 0.2, 0.4]] * 3, [0.9] * 3, APART)
    np.testing.assert_allclose(at_equal_score(got, "a", margins=(0.0,), rng=rng).distance, 0.2)
    broken = made([[0.8, 0.9, np.nan]] * 3, [[0.1, 0.2, np.nan]] * 3, [0.9] * 3, APART)
    found = at_equal_score(broken, "a", margins=(0.0,), rng=rng)
    np.testing.assert_allclose(found.distance, 0.2)
    assert not found.beyond.any()


def test_score_at_equal_distance_is_what_the_curve_has_lost_there(rng):
    k = np.arange(1, 5)
    score = [0.9 - 0.1 * k, 0.8 - 0.02 * k, 0.9 - 0.01 * k]
    population = made(score, np.tile(0.1 * k, (3, 1)), [0.9, 0.8, 0.9], APART)
    got = at_equal_distance(population, "a", rng=rng)
    assert got.target == pytest.approx(0.2)
    np.testing.assert_allclose(got.lost, [0.2, 0.04, 0.02])
    assert got.median is not None
    assert got.median.value == pytest.approx(0.04)
    assert got.median.ci is not None
    assert got.median.ci[0] < 0.04 < got.median.ci[1]
    near = made(score, np.array([[0.1, 0.2, 0.3, 0.4]] * 2 + [[0.01, 0.02, 0.03, 0.04]]), [0.9, 0.8, 0.9], APART)
    never = at_equal_distance(near, "a", rng=rng)
    np.testing.assert_array_equal(np.isnan(never.lost), [False, False, True])
    assert never.median is None
    with pytest.raises(ValueError, match=r"way = 'b': one of \['a'\]"):
        at_equal_distance(near, "b", rng=rng)


def test_independent_restarts_are_told_from_samples_around_them(rng):
    """Normals of every angle against samples within a few degrees: both measures say so."""
    x = circle(500)
    angles = 2 * np.pi * np.arange(5) / 5
    ends = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    late = ends[:, None] + 0.05 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    data = dataset(x, np.zeros(500, np.int32))  # every normal gets half of these right
    got = samples_around(Direction(), Layout.of({"theta": np.zeros(2)}), late, data, scales=(1.0, 2.0), rng=rng)
    np.testing.assert_allclose(got.restart_score, 0.5, atol=0.01)
    equal = at_equal_score(got, "diagonal", margins=(0.02,), rng=rng)
    assert equal.beyond.all()  # samples are as good too, as far as they were drawn
    assert equal.ratio[0] is not None
    assert equal.ratio[0].value < 0.1
    assert at_equal_distance(got, "diagonal", rng=rng).median is None


def test_restarts_that_stand_still_are_told(rng):
    x, late = circle(50), rng.standard_normal((3, 4, 2))
    late[1] = late[1, -1]
    data = dataset(x, (x[:, 0] < 0).astype(np.int32))
    got = samples_around(Direction(), Layout.of({"theta": np.zeros(2)}), late, data, scales=(1.0, 30.0), rng=rng)
    np.testing.assert_array_equal(got.still, [False, True, False])
    for way in WAYS:
        assert np.all(got.distance[way][1] == 0)
        assert np.all(got.distance[way][::2] > 0)
        np.testing.assert_allclose(got.score[way][1], got.restart_score[1])


def test_ways_may_have_scales_of_their_own_and_the_generator_decides(rng):
    x, late = circle(50), rng.standard_normal((2, 4, 2))
    data, layout = dataset(x, (x[:, 0] < 0).astype(np.int32)), Layout.of({"theta": np.zeros((2, 1))})
    ways = {"diagonal": diagonal, "kept": kept_steps(Direction(), layout, data)}
    scales = {"diagonal": (1.0, 2.0, 3.0), "kept": (0.1,)}
    draw = lambda: samples_around(  # noqa: E731
        Direction(), layout, late, data, ways=ways, scales=scales, num_samples=4, rng=np.random.default_rng(5)
    )
    one, two = draw(), draw()
    assert {way: values.shape for way, values in one.score.items()} == {"diagonal": (2, 3), "kept": (2, 1)}
    for way in ways:
        np.testing.assert_array_equal(one.distance[way], two.distance[way])
        np.testing.assert_array_equal(one.scales[way], scales[way])
    with pytest.raises(ValueError, match=r"scales are of \['kept'\]"):
        samples_around(Direction(), layout, late, data, ways=ways, scales={"kept": (0.1,)}, rng=rng)


def test_programs_are_compiled_once_for_all_restarts_ways_and_scales(rng):
    @dataclasses.dataclass(frozen=True)
    class Counting(Direction):
        traces = []  # noqa: RUF012

        def apply(self, params, x):
            if len(x) > 1:  # one example: asks for shapes only
                self.traces.append(x.shape)
            return super().apply(params, x)

    x = circle(30)
    data, layout = dataset(x, (x[:, 0] < 0).astype(np.int32)), Layout.of({"theta": np.zeros(2)})
    counts = []
    for num, scales in ((4, (1.0,)), (4, (1.0, 2.0, 3.0)), (7, (1.0, 2.0))):
        Counting.traces.clear()
        samples_around(
            Counting(), layout, rng.standard_normal((num, 3, 2)), data, scales=scales, num_samples=3, rng=rng
        )
        counts.append(len(Counting.traces))
    assert counts[1] == 0  # other scales, nothing new
    assert counts[2] < counts[0]  # another number of restarts: of these only


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
    np.testing.assert_array_equal(got.distance["diagonal"][:, 0], 0)
    assert got.task == "regression"
    assert got.divergence is None
    assert got.restart_divergence is None
    assert got.normalised["diagonal"][0, 0] == 0
    assert np.isnan(got.normalised["diagonal"][1, 0]) or got.normalised["diagonal"][1, 0] == 0  # no error, or rounding
    variance = np.sum((y - y.mean()) ** 2) / len(y)
    assert got.score["diagonal"][0, 0] == pytest.approx(1 - 0.01 / variance, rel=1e-4)


def test_what_cannot_be_sampled_is_refused(rng):
    x = circle(20)
    data = dataset(x, np.zeros(20, np.int32))
    layout, late = Layout.of({"theta": np.zeros(2)}), rng.standard_normal((2, 3, 2))
    for some, match in ((late[:1], "1 restarts with 3"), (late[:, :2], "2 restarts with 2")):
        with pytest.raises(ValueError, match=match):
            samples_around(Direction(), layout, some, data, rng=rng)
    for scales in ((1.0, 0.5), (-1.0,), (), (0.0, np.inf)):
        with pytest.raises(ValueError, match="scales"):
            samples_around(Direction(), layout, late, data, scales=scales, rng=rng)
    with pytest.raises(ValueError, match="num_samples = 0"):
        samples_around(Direction(), layout, late, data, num_samples=0, rng=rng)
    with pytest.raises(ValueError, match=r"positions \[1\] are not finite"):
        samples_around(Direction(), layout, np.where(np.arange(2)[:, None, None] == 1, np.nan, late), data, rng=rng)
    constant = dataclasses.replace(data, task="regression", y_test=np.ones((20, 2), np.float32))
    with pytest.raises(ValueError, match=r"R\^2 is not defined"):
        samples_around(Direction(), layout, late, constant, rng=rng)
    empty = dataclasses.replace(data, x_test=x[:0], y_test=data.y_test[:0])
    with pytest.raises(ValueError, match="no test examples"):
        samples_around(Direction(), layout, late, empty, rng=rng)
