import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from analysis.connectivity import LOSSES, straight_line
from analysis.connectivity import line as lines
from wspace import MLP, objective, stack_params
from wspace.data import Dataset, load
from wspace.spec import DataSpec


def dataset(x, y, test=None, num_classes=0):
    """Examples as they are; the test set is the train set unless it is given."""
    task, kind = ("classification", np.int32) if num_classes else ("regression", np.float32)
    (x_train, y_train), (x_test, y_test) = ((a.astype(np.float32), b.astype(kind)) for a, b in ((x, y), test or (x, y)))
    return Dataset("planted", task, x_train, y_train, x_test, y_test, num_classes, x.shape[1:], (), ())


def regression(rng, num_features=3, num_targets=2):
    x, y, *test = (rng.standard_normal((n, size)) for n in (30, 17) for size in (num_features, num_targets))
    return dataset(x, y, test)


def classification(rng, num_features=3, num_classes=3):
    x, x_test = rng.standard_normal((30, num_features)), rng.standard_normal((17, num_features))
    y, y_test = rng.integers(num_classes, size=30), rng.integers(num_classes, size=17)
    return dataset(x, y, (x_test, y_test), num_classes)


def random_params(rng, sizes, scale=1.0):
    """float32 like trained ones, biases included."""
    return tuple(
        {
            "weight": (scale * rng.standard_normal((fan_in, fan_out))).astype(np.float32),
            "bias": (scale * rng.standard_normal(fan_out)).astype(np.float32),
        }
        for fan_in, fan_out in itertools.pairwise(sizes)
    )


def between(a, b, alpha):
    return jax.tree.map(lambda x, y: (1 - alpha) * x.astype(np.float64) + alpha * y.astype(np.float64), a, b)


def numpy_outputs(params, x, phi):
    h = x.astype(np.float64)
    for i, layer in enumerate(params):
        h = h @ layer["weight"] + layer["bias"]
        h = phi(h) if i < len(params) - 1 else h
    return h


def squared_error(outputs, y):
    targets = np.eye(outputs.shape[1])[y] if y.ndim == 1 else y.astype(np.float64)
    return np.mean(np.sum((outputs - targets) ** 2, axis=1))


def cross_entropy(outputs, y):
    return np.mean(logsumexp(outputs, axis=1) - outputs[np.arange(len(y)), y])


def half_squares(params):
    return sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(params)) / 2


PHI = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "identity": lambda z: z}
LOSS = {"squared_error": squared_error, "cross_entropy": cross_entropy}


@dataclasses.dataclass(frozen=True)
class Peak:
    """A model of one's own, with nothing but `apply`: on targets of 0 its loss at t is tilt t + a peak of 1 at `top`."""

    top: float
    width: float = 0.3
    tilt: float = 0.0

    def apply(self, params, x):
        loss = self.tilt * params["t"] + 1 / (1 + jnp.square((params["t"] - self.top) / self.width))
        return jnp.sqrt(loss) * jnp.ones((*x.shape[:-1], 1), x.dtype)

    def loss(self, t):
        return self.tilt * t + 1 / (1 + ((t - self.top) / self.width) ** 2)

    def line(self, **options):
        a, b = ({"t": np.array(t, np.float32)} for t in (0, 1))
        return straight_line(self, "squared_error", a, b, dataset(np.ones((4, 2)), np.zeros((4, 1))), **options)


@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_metric_equals_plain_numpy_in_float64(rng, kind, activation):
    sizes, data = (3, 4, 5, 3), classification(rng)
    a, b = random_params(rng, sizes), random_params(rng, sizes)
    line = straight_line(MLP(sizes, activation), kind, a, b, data, l2=0.3, num_alphas=7)
    np.testing.assert_allclose(line.alphas, np.arange(7) / 6, rtol=1e-15)
    assert set(line.values) == set(objective.METRICS["classification"]) - {"grad_norm"}
    for i, alpha in enumerate(line.alphas):
        params = between(a, b, alpha)
        train, test = (numpy_outputs(params, x, PHI[activation]) for x in (data.x_train, data.x_test))
        expected = {
            "train_loss": LOSS[kind](train, data.y_train),
            "test_loss": LOSS[kind](test, data.y_test),
            "train_objective": LOSS[kind](train, data.y_train) + 0.3 * half_squares(params),
            "train_accuracy": np.mean(train.argmax(axis=1) == data.y_train),
            "test_accuracy": np.mean(test.argmax(axis=1) == data.y_test),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(line.values[name][i], value, rtol=1e-12, err_msg=name)


def test_the_loss_of_a_linear_model_is_a_quadratic_below_its_chord(rng):
    """L(alpha) = chord - alpha (1-alpha) q, q the mean over examples of |outputs_b - outputs_a|^2, + l2/2 |b - a|^2."""
    data, l2 = regression(rng), 0.2
    a, b = random_params(rng, (3, 2)), random_params(rng, (3, 2))
    line = straight_line(MLP((3, 2)), "squared_error", a, b, data, l2=l2)
    step = jax.tree.map(lambda x, y: y.astype(np.float64) - x, a, b)
    for name, x, y, weight in (
        ("train_loss", data.x_train, data.y_train, 0.0),
        ("test_loss", data.x_test, data.y_test, 0.0),
        ("train_objective", data.x_train, data.y_train, l2),
    ):
        outputs = [numpy_outputs(params, x, PHI["identity"]) for params in (a, b)]
        ends = [squared_error(out, y) + weight * half_squares(between(a, b, k)) for k, out in enumerate(outputs)]
        curvature = squared_error(outputs[1], outputs[0]) + weight * half_squares(step)
        chord = (1 - line.alphas) * ends[0] + line.alphas * ends[1]
        np.testing.assert_allclose(line.chord(name), chord, rtol=1e-12, err_msg=name)
        expected = chord - line.alphas * (1 - line.alphas) * curvature
        np.testing.assert_allclose(line.values[name], expected, rtol=1e-11, err_msg=name)
        barrier = line.barriers[name]
        assert (barrier.chord, barrier.chord_alpha) == (0, 0)
        np.testing.assert_allclose(barrier.mean, abs(ends[1] - ends[0]) / 2, rtol=1e-11)
        assert barrier.mean_alpha == float(ends[1] > ends[0])
        assert barrier.excess < 0
        assert barrier.share_above == 0
        assert not barrier.violates_jensen
    scatter = np.sum((data.y_test - data.y_test.mean(axis=0, dtype=np.float64)) ** 2)
    np.testing.assert_allclose(line.values["test_r2"], 1 - 17 * line.values["test_loss"] / scatter, rtol=1e-6)
    np.testing.assert_allclose(line.length, np.sqrt(2 * half_squares(step)), rtol=1e-14)


@pytest.mark.parametrize("size", [10.0, 1.0, 1e-3, 1e-6], ids=str)
def test_no_convex_model_violates_jensen_however_short_the_line(rng, size):
    """A softmax regression is convex; on a short line it bends by less than float32's rounding."""
    data, a = classification(rng), random_params(rng, (3, 3))
    b = jax.tree.map(lambda x, y: (x + size * y).astype(np.float32), a, random_params(rng, (3, 3)))
    for barrier in straight_line(MLP((3, 3)), "cross_entropy", a, b, data).barriers.values():
        assert not barrier.violates_jensen
        assert (barrier.chord, barrier.chord_alpha, barrier.share_above) == (0, 0, 0)
        assert barrier.excess <= barrier.tolerance


def test_a_unit_with_its_signs_flipped_is_the_same_function_across_a_barrier_of_known_height(rng):
    """v tanh(w x) = (-v) tanh(-w x); halfway between, the network is 0 and its loss the mean squared target."""
    x = rng.standard_normal((25, 3))
    params = random_params(rng, (3, 1, 1))
    for layer in params:
        layer["bias"][:] = 0
    flipped = jax.tree.map(np.negative, params)
    y = numpy_outputs(params, x.astype(np.float32), np.tanh)
    data = dataset(x, y)
    line = straight_line(MLP((3, 1, 1), "tanh"), "squared_error", params, flipped, data, l2=0.1)
    height = np.mean(np.square(data.y_train.astype(np.float64)))
    barrier = line.barriers["train_loss"]
    np.testing.assert_allclose([barrier.chord, barrier.mean, barrier.excess], height, rtol=1e-6)
    assert barrier.chord_alpha == barrier.mean_alpha == 0.5
    assert barrier.violates_jensen
    assert barrier.share_above == 1
    shrunk = [numpy_outputs(between(params, flipped, alpha), data.x_train, np.tanh) for alpha in line.alphas]
    np.testing.assert_allclose(
        line.values["train_loss"], [squared_error(s, data.y_train) for s in shrunk], rtol=1e-11, atol=1e-15
    )
    rise = line.values["train_objective"][25] - line.values["train_objective"][0]
    np.testing.assert_allclose(rise, height - 0.1 * half_squares(params), rtol=1e-6)  # halfway the penalty is 0


def test_a_network_with_two_units_swapped_has_one_loss_and_equal_barriers_of_both_kinds(rng):
    a = random_params(rng, (3, 2, 3))
    b = ({"weight": a[0]["weight"][:, ::-1], "bias": a[0]["bias"][::-1]}, a[1] | {"weight": a[1]["weight"][::-1]})
    x = rng.standard_normal((40, 3)).astype(np.float32)
    line = straight_line(MLP((3, 2, 3)), "squared_error", a, b, dataset(x, numpy_outputs(a, x, PHI["relu"])), l2=0.01)
    for name in LOSSES:
        values, barrier = line.values[name], line.barriers[name]
        np.testing.assert_allclose(
            values, values[::-1], rtol=1e-12, atol=1e-14
        )  # the way back is the way there, relabelled
        np.testing.assert_allclose(barrier.chord, barrier.mean, rtol=1e-12)
        assert barrier.chord_alpha == barrier.mean_alpha
        assert barrier.chord >= values.max() - values[0] > 0.1
        assert barrier.violates_jensen


def test_the_way_back_has_the_same_barriers_at_the_mirrored_places(rng):
    sizes, x = (3, 4, 3), rng.standard_normal((40, 3)).astype(np.float32)
    a, noise = random_params(rng, sizes), random_params(rng, sizes, 0.2)
    flipped = (jax.tree.map(np.negative, a[0]), a[1] | {"weight": -a[1]["weight"]})
    b = jax.tree.map(np.add, flipped, noise)
    data = dataset(x, numpy_outputs(a, x, np.tanh))
    there, back = (
        straight_line(MLP(sizes, "tanh"), "squared_error", *ends, data, l2=0.01) for ends in ((a, b), (b, a))
    )
    assert all(barrier.violates_jensen for barrier in there.barriers.values())
    for name, values in there.values.items():
        np.testing.assert_allclose(back.values[name], values[::-1], rtol=1e-12, atol=1e-14)
    for name in LOSSES:
        one, other = there.barriers[name], back.barriers[name]
        for field in ("chord", "mean", "excess", "tolerance", "share_above"):
            np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            [one.chord_alpha, one.mean_alpha], [1 - other.chord_alpha, 1 - other.mean_alpha], atol=1e-9
        )
    assert there.length == back.length


@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("seed", range(3))
def test_identical_networks_have_no_line_between_them(kind, seed):
    """(1-alpha) x + alpha x is x only up to rounding: the barrier is 0 all the same."""
    rng = np.random.default_rng(seed)
    data, params = classification(rng), random_params(rng, (3, 4, 3))
    line = straight_line(MLP((3, 4, 3)), kind, params, params, data, l2=0.1)
    assert line.length == 0
    for name, barrier in line.barriers.items():
        np.testing.assert_allclose(line.values[name], line.values[name][0], rtol=1e-14)
        assert (barrier.chord, barrier.chord_alpha, barrier.mean, barrier.mean_alpha) == (0, 0, 0, 0)
        assert abs(barrier.excess) <= barrier.tolerance
        assert not barrier.violates_jensen


@pytest.mark.parametrize(("tilt", "higher"), [(1e-12, 1), (-1e-12, 0)])
def test_a_loss_that_is_flat_up_to_rounding_is_highest_at_its_higher_end(tilt, higher):
    barrier = Peak(0.5, width=1e9, tilt=tilt).line(num_alphas=11).barriers["train_loss"]
    assert (barrier.chord, barrier.chord_alpha, barrier.mean_alpha) == (0, 0, higher)
    np.testing.assert_allclose(barrier.mean, 0.5e-12, rtol=1e-2)
    assert not barrier.violates_jensen


@pytest.mark.parametrize("tilt", [0.0, 0.4])
@pytest.mark.parametrize("top", [0.0371, 0.35, 0.4137, 0.5, 0.7777])
def test_refinement_finds_a_maximum_between_the_points(top, tilt):
    model = Peak(top, tilt=tilt)
    line = model.line(num_alphas=11)
    barrier, resolution = line.barriers["train_loss"], 1 / (16 * 10)
    ends, dense = model.loss(np.array([0.0, 1.0])), np.linspace(0, 1, 1_000_001)
    np.testing.assert_allclose(line.values["train_loss"], model.loss(line.alphas), rtol=1e-14)
    for height, value, alpha in (
        (lambda t: model.loss(t) - (1 - t) * ends[0] - t * ends[1], barrier.chord, barrier.chord_alpha),
        (lambda t: model.loss(t) - ends.mean(), barrier.mean, barrier.mean_alpha),
    ):
        peak = dense[height(dense).argmax()]
        assert abs(alpha - peak) <= resolution
        np.testing.assert_allclose(value, height(alpha), rtol=1e-12)
        assert max(height(line.alphas)) <= value + 1e-15
        # a point of the last grid is within half the resolution, and the curvature is at most 2 / width^2
        assert height(peak) - (resolution / 2 / model.width) ** 2 <= value <= height(peak) + 1e-9
    assert barrier.excess == barrier.chord
    assert barrier.violates_jensen


@pytest.mark.parametrize("top", [0.41, 0.4499, 0.4737, 0.4999])
def test_refinement_keeps_a_maximum_whose_best_point_is_not_the_nearest(top):
    """A slow rise and a steep fall: the best point of every grid is the last one before the fall."""

    @dataclasses.dataclass(frozen=True)
    class Saw(Peak):
        def apply(self, params, x):
            t = params["t"]
            loss = jnp.where(t <= self.top, t, jnp.maximum(self.top - 100 * (t - self.top), 0))
            return jnp.sqrt(loss) * jnp.ones((*x.shape[:-1], 1), x.dtype)

    barrier = Saw(top).line(num_alphas=11).barriers["train_loss"]
    for value, alpha in ((barrier.chord, barrier.chord_alpha), (barrier.mean, barrier.mean_alpha)):
        assert top - 1 / 160 <= alpha <= top
        np.testing.assert_allclose(value, alpha, rtol=1e-12)


def test_each_kind_of_barrier_is_refined_around_a_maximum_of_its_own():
    """A steep tilt moves the highest point, but not the height above the chord."""
    model = Peak(0.4137, tilt=1.5)
    line = model.line(num_alphas=11)
    barrier, dense = line.barriers["train_loss"], np.linspace(0, 1, 100_001)
    losses = model.loss(dense)
    above = losses - (1 - dense) * losses[0] - dense * losses[-1]
    np.testing.assert_allclose(barrier.chord_alpha, dense[above.argmax()], atol=1 / 160)
    np.testing.assert_allclose(barrier.mean_alpha, dense[losses.argmax()], atol=1 / 160)
    assert abs(barrier.chord_alpha - barrier.mean_alpha) > 1 / 10
    flat = Peak(0.4137).line(num_alphas=11).barriers["train_loss"]
    np.testing.assert_allclose([barrier.chord, barrier.chord_alpha], [flat.chord, flat.chord_alpha], rtol=1e-12)


def test_the_share_above_counts_the_inner_points_of_the_grid():
    """A narrow peak near the end: the loss is below its chord before it, and above it at the peak."""
    model = Peak(0.9, width=0.2, tilt=0.0)
    line = model.line(num_alphas=21)
    above = line.values["train_loss"] - line.chord("train_loss")
    share = np.mean(above[1:-1] > 0)
    assert 0 < share < 1
    assert line.barriers["train_loss"].share_above == share


@pytest.mark.parametrize(("name", "kind"), [("iris", "cross_entropy"), ("diabetes", "squared_error")])
def test_ends_and_middle_are_what_a_run_would_store(rng, name, kind):
    data = load(DataSpec(name=name))
    model = MLP((data.num_features, 6, data.num_outputs))
    a, b = (random_params(rng, model.sizes, 0.5) for _ in range(2))
    line = straight_line(model, kind, a, b, data, l2=0.01, num_alphas=5)
    middle = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    stored = objective.evaluate(model, kind, stack_params([a, middle, b]), data, 0.01)
    assert set(line.values) == set(stored) - {"grad_norm"}
    for metric, values in line.values.items():
        np.testing.assert_allclose(values[[0, 2, 4]], stored[metric], rtol=2e-5, atol=1e-6, err_msg=metric)


@pytest.mark.parametrize(
    ("chunk_values", "batch_values"), [(200, 4_000_000), (1, 4_000_000), (4_000_000, 1), (500, 80)]
)
def test_chunks_of_examples_and_batches_of_alphas_change_nothing(rng, monkeypatch, chunk_values, batch_values):
    data, sizes = classification(rng), (3, 4, 3)  # 31 params
    a, b = random_params(rng, sizes), random_params(rng, sizes)
    whole = straight_line(MLP(sizes), "cross_entropy", a, b, data, l2=0.1, num_alphas=5)
    monkeypatch.setattr(objective, "CHUNK_VALUES", chunk_values)
    monkeypatch.setattr(lines, "BATCH_VALUES", batch_values)
    parts = straight_line(MLP(sizes), "cross_entropy", a, b, data, l2=0.1, num_alphas=5)
    for name, values in whole.values.items():
        np.testing.assert_allclose(parts.values[name], values, rtol=1e-13, err_msg=name)
    for name, barrier in whole.barriers.items():
        got = dataclasses.astuple(parts.barriers[name])
        np.testing.assert_allclose(got, dataclasses.astuple(barrier), rtol=1e-9, atol=1e-13)


def test_float64_stays_inside(rng):
    data, sizes = classification(rng), (3, 4, 3)
    a, b = random_params(rng, sizes), random_params(rng, sizes)
    line = straight_line(MLP(sizes), "cross_entropy", a, b, data, num_alphas=3)
    assert not jax.config.read("jax_enable_x64")
    assert jnp.ones(1).dtype == jnp.float32
    for array in (line.alphas, *line.values.values()):
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
    for barrier in line.barriers.values():
        assert {type(value) for value in dataclasses.astuple(barrier)} == {float}


def test_params_of_jax_and_of_wider_floats_give_the_same_line(rng):
    data, sizes = classification(rng), (3, 4, 3)
    a, b = random_params(rng, sizes), random_params(rng, sizes)
    plain = straight_line(MLP(sizes), "cross_entropy", a, b, data, num_alphas=3)
    for convert in (jnp.asarray, lambda leaf: leaf.astype(np.float64)):
        line = straight_line(
            MLP(sizes), "cross_entropy", jax.tree.map(convert, a), jax.tree.map(convert, b), data, num_alphas=3
        )
        for name, values in plain.values.items():
            np.testing.assert_array_equal(line.values[name], values)
        assert line.barriers == plain.barriers


def test_lengths_of_float32_params_are_those_of_float64():
    a = {"t": np.full(3, 4096, np.float32)}
    b = {"t": a["t"] + np.array([0, 3, 4], np.float32) * np.float32(2.0**-11)}

    @dataclasses.dataclass(frozen=True)
    class Constant:
        def apply(self, params, x):
            return jnp.zeros((*x.shape[:-1], 1), x.dtype) + params["t"][:1]

    data = dataset(np.ones((4, 2)), np.arange(4.0)[:, None])
    assert straight_line(Constant(), "squared_error", a, b, data, num_alphas=3).length == 5 * 2.0**-11


def test_a_second_line_of_the_same_shapes_traces_nothing_new():
    traces = []

    @dataclasses.dataclass(frozen=True)
    class Counted(Peak):
        def apply(self, params, x):
            traces.append(x.shape)
            return super().apply(params, x)

    Counted(0.3).line(num_alphas=5)
    first = len(traces)
    Counted(0.3).line(num_alphas=5, l2=0.5)
    assert {shape[0] for shape in traces[:first]} == {1, 4}
    assert {shape[0] for shape in traces[first:]} == {1}, "more than the shape of the outputs was traced"


@pytest.mark.parametrize("num_alphas", [-1, 0, 1, 2, 50])
def test_a_grid_without_its_middle_is_refused(num_alphas):
    with pytest.raises(ValueError, match=f"num_alphas = {num_alphas}: an odd number of at least 3"):
        Peak(0.5).line(num_alphas=num_alphas)


@pytest.mark.parametrize("num_alphas", [3, 11, 51, 101])
def test_the_middle_and_both_ends_are_on_every_grid(num_alphas):
    alphas = Peak(0.5).line(num_alphas=num_alphas).alphas
    assert len(alphas) == num_alphas
    assert (alphas[0], alphas[num_alphas // 2], alphas[-1]) == (0, 0.5, 1)
    np.testing.assert_allclose(np.diff(alphas), 1 / (num_alphas - 1), rtol=1e-12)


def test_networks_that_differ_are_refused(rng):
    data, a = classification(rng), random_params(rng, (3, 4, 3))
    for other in (random_params(rng, (3, 5, 3)), random_params(rng, (3, 4, 4, 3)), tuple({**layer} for layer in a[:1])):
        with pytest.raises(ValueError, match="the networks differ: leaves"):
            straight_line(MLP((3, 4, 3)), "cross_entropy", a, other, data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused(rng, value):
    data, a, b = classification(rng), random_params(rng, (3, 3)), random_params(rng, (3, 3))
    b[0]["weight"][1, 1] = value
    with pytest.raises(
        ValueError, match="train_loss, test_loss, train_objective on the path between the networks is not"
    ):
        straight_line(MLP((3, 3)), "cross_entropy", a, b, data, num_alphas=3)


def test_a_loss_that_is_not_finite_between_the_points_is_refused_too():
    @dataclasses.dataclass(frozen=True)
    class Hole(Peak):
        def apply(self, params, x):
            return super().apply(params, x) + jnp.where(jnp.abs(params["t"] - self.top) < 0.01, jnp.inf, 0)

    with pytest.raises(ValueError, match="is not finite"):
        Hole(0.55).line(num_alphas=11)
