import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, Wells, zero_targets
from scipy.special import logsumexp

from analysis.landscape import common_reach, custom_plane, evaluate, grid, line_through, plane_through, random_plane
from analysis.landscape import surface as surfaces
from wspace import MLP, objective, stack_params
from wspace.data import Dataset
from wspace.errors import StoreError
from wspace.tree import Params

PHI = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "identity": lambda z: z,
}
TIGHT = {"float32": 3e-5, "float64": 1e-11}


def dataset(train, test, num_classes=0):
    """Examples as they are: (x, y) of each set."""
    task, kind = ("classification", np.int32) if num_classes else ("regression", np.float32)
    (x_train, y_train), (x_test, y_test) = ((x.astype(np.float32), y.astype(kind)) for x, y in (train, test))
    return Dataset("planted", task, x_train, y_train, x_test, y_test, num_classes, x_train.shape[1:], (), ())


def regression(rng, num_features=3, num_targets=2, nums=(30, 30)):
    train, test = ((rng.standard_normal((n, num_features)), rng.standard_normal((n, num_targets))) for n in nums)
    return dataset(train, test)


def classification(rng, num_features=3, num_classes=3, nums=(30, 30)):
    train, test = ((rng.standard_normal((n, num_features)), rng.integers(num_classes, size=n)) for n in nums)
    return dataset(train, test, num_classes)


def problem(rng, kind, **options):
    if kind == "regression":
        return "squared_error", regression(rng, num_targets=3, **options)
    return kind, classification(rng, **options)


def random_params(rng, sizes, bias=True, scale=1.0) -> Params:
    """float32 like trained ones, biases included."""
    draw = lambda *shape: (scale * rng.standard_normal(shape)).astype(np.float32)  # noqa: E731
    return tuple(
        {"weight": draw(*pair)} | ({"bias": draw(pair[1])} if bias else {}) for pair in itertools.pairwise(sizes)
    )


def numpy_outputs(params, x, activation):
    h = x.astype(np.float64)
    for i, layer in enumerate(params):
        h = h @ np.float64(layer["weight"]) + layer.get("bias", 0)
        h = PHI[activation](h) if i < len(params) - 1 else h
    return h


def numpy_metrics(params, kind, data, activation, l2):
    found = {}
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        z = numpy_outputs(params, x, activation)
        targets = np.eye(z.shape[1])[y] if y.ndim == 1 else y.astype(np.float64)
        errors = np.sum((z - targets) ** 2)
        own = lambda z, y: z[np.arange(len(y)), y]  # noqa: E731
        loss = np.mean(logsumexp(z, axis=1) - own(z, y)) if kind == "cross_entropy" else errors / len(y)
        found[f"{split}_loss"] = loss
        found[f"{split}_objective"] = loss + l2 / 2 * sum(np.sum(np.float64(p) ** 2) for p in jax.tree.leaves(params))
        if y.ndim == 1:
            found[f"{split}_accuracy"] = np.mean(z.argmax(axis=1) == y)
        else:
            found[f"{split}_r2"] = 1 - errors / np.sum((targets - targets.mean(axis=0)) ** 2)
    return found


def points(plane, axes):
    """(index, params) of every point of a grid, params computed by hand in float64."""
    for index in np.ndindex(*(len(axis) for axis in axes)):
        c = [axis[i] for axis, i in zip(axes, index, strict=True)]
        add = lambda o, d, c=c: o + sum(c_k * d_k for c_k, d_k in zip(c, d, strict=True))  # noqa: E731
        yield index, jax.tree.map(add, plane.origin, plane.directions)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A model of one's own, with nothing but `apply`."""

    inner: MLP

    def apply(self, params, x):
        return self.inner.apply(params, x)


@dataclasses.dataclass(frozen=True)
class Root:
    """outputs = sqrt(t) x: NaN where t < 0."""

    def apply(self, params, x):
        return jnp.sqrt(params["t"]) * x


def small(rng, sizes=(3, 3), num=3, anchors=False):
    """A plane through three networks, and its grid."""
    plane = plane_through(*(random_params(rng, sizes) for _ in range(3)))
    return plane if anchors else dataclasses.replace(plane, anchors=()), grid(plane, num)


def assert_equal(one, other, rtol=0.0, atol=0.0):
    assert set(one.values) == set(other.values)
    for name, values in one.values.items():
        np.testing.assert_allclose(other.values[name], values, rtol=rtol, atol=atol, err_msg=name)
        np.testing.assert_allclose(other.anchors[name], one.anchors[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_of_a_bowl_is_a_quadratic_of_the_coordinates(rng, dtype):
    root = rng.standard_normal((4, 3)).round(3)
    model, theta, pair = Bowl(tuple(map(tuple, root))), rng.standard_normal(3), rng.standard_normal((2, 3))
    plane = custom_plane({"theta": theta}, {"theta": pair})
    first, second = pair[0], pair[1] - (pair[1] @ pair[0]) / (pair[0] @ pair[0]) * pair[0]
    x, y = axes = grid(plane, 7, [2.0, 0.5])
    found = evaluate(model, "squared_error", plane, axes, zero_targets(4), l2=0.3, dtype=dtype)
    assert found.dtype == dtype
    for split in ("train", "test"):
        for name, matrix in (("loss", root.T @ root), ("objective", root.T @ root + 0.15 * np.eye(3))):
            inner = lambda a, b, matrix=matrix: a @ matrix @ b  # noqa: E731
            expected = (
                inner(theta, theta)
                + 2 * x[:, None] * inner(theta, first)
                + 2 * y * inner(theta, second)
                + x[:, None] ** 2 * inner(first, first)
                + y**2 * inner(second, second)
                + 2 * x[:, None] * y * inner(first, second)
            )
            np.testing.assert_allclose(found.values[f"{split}_{name}"], expected, rtol=TIGHT[dtype], err_msg=name)
    np.testing.assert_array_equal(found.values["train_r2"], -np.inf)  # the targets have no variance to explain
    assert found.centre["train_loss"] == found.values["train_loss"][3, 3]
    np.testing.assert_allclose(found.centre["train_loss"], model.loss(theta), rtol=TIGHT[dtype])
    for distances, axis, direction in zip(found.distances, axes, (first, second), strict=True):
        np.testing.assert_allclose(distances, axis * np.linalg.norm(direction), rtol=1e-12)


def test_a_line_has_values_along_one_axis():
    plane = line_through({"theta": np.array([-1.0, 1.0])}, {"theta": np.array([1.0, 1.0])})
    axes = grid(plane, 9, 0.5)
    found = evaluate(Wells(), "squared_error", plane, axes, zero_targets(2), dtype="float64")
    np.testing.assert_allclose(found.values["test_loss"], ((2 * axes[0]) ** 2 - 1) ** 2, atol=1e-15)
    np.testing.assert_array_equal(found.anchors["test_loss"], [0, 0])


@pytest.mark.parametrize(
    ("kind", "activation", "bias", "sizes", "dtype"),
    [
        ("cross_entropy", "relu", True, (3, 5, 4, 3), "float64"),
        ("cross_entropy", "gelu", False, (3, 5, 3), "float64"),
        ("cross_entropy", "tanh", True, (3, 3), "float32"),
        ("squared_error", "tanh", True, (3, 5, 3), "float64"),
        ("squared_error", "relu", False, (3, 4, 3), "float32"),
        ("regression", "identity", False, (3, 4, 5, 3), "float64"),
        ("regression", "gelu", True, (3, 4, 3), "float32"),
        ("regression", "relu", True, (3, 3), "float64"),
    ],
)
def test_every_metric_equals_plain_numpy_in_float64(rng, kind, activation, bias, sizes, dtype):
    loss, data = problem(rng, kind, nums=(30, 17))
    plane = custom_plane(
        random_params(rng, sizes, bias), stack_params([random_params(rng, sizes, bias) for _ in range(2)])
    )
    axes = grid(plane, 3, [0.8, 0.4])
    found = evaluate(MLP(sizes, activation, bias), loss, plane, axes, data, l2=0.3, dtype=dtype)
    assert set(found.values) == set(surfaces.METRICS[data.task])
    for index, params in points(plane, axes):
        for name, expected in numpy_metrics(params, loss, data, activation, 0.3).items():
            np.testing.assert_allclose(found.values[name][index], expected, rtol=TIGHT[dtype], err_msg=name)


@pytest.mark.parametrize(("labels", "dtype"), [(np.int64, "float64"), (np.int64, "float32"), (np.uint8, "float32")])
@pytest.mark.parametrize("kind", ["squared_error", "cross_entropy"])
def test_labels_may_be_integers_of_any_width(rng, labels, dtype, kind):
    data, (plane, axes) = classification(rng), small(rng)
    other = dataclasses.replace(data, y_train=data.y_train.astype(labels), y_test=data.y_test.astype(labels))
    names = ["train_loss", "train_accuracy"]
    one, two = (evaluate(MLP((3, 3)), kind, plane, axes, d, dtype=dtype, metrics=names) for d in (data, other))
    assert_equal(one, two)


@pytest.mark.parametrize("kind", ["cross_entropy", "regression"])
def test_the_centre_and_the_anchors_have_the_values_that_a_run_measures(rng, kind):
    loss, data = problem(rng, kind)
    sizes = (3, 5, 4, 3)
    networks = [random_params(rng, sizes) for _ in range(2)]
    plane = random_plane(networks[0], rng=rng).marked({"other": networks[1]})
    found = evaluate(MLP(sizes), loss, plane, grid(plane, 5, 3.0), data, l2=0.2)
    measured = objective.evaluate(MLP(sizes), loss, stack_params(networks), data, l2=0.2)
    for name, values in measured.items():
        if name != "grad_norm":
            np.testing.assert_allclose(found.anchors[name], values, rtol=2e-6, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(found.centre[name], values[0], rtol=2e-6, atol=1e-6, err_msg=name)
    assert {"test_objective", *measured} == {"grad_norm", *found.values}


def test_an_anchor_off_the_plane_has_its_own_value_and_not_that_of_its_projection(rng):
    data, networks = classification(rng), [random_params(rng, (3, 3)) for _ in range(4)]
    plane = plane_through(*networks[:3]).marked({"off": networks[3]})
    found = evaluate(MLP((3, 3)), "cross_entropy", plane, grid(plane, 3), data, dtype="float64", metrics=["train_loss"])
    own, shadow = (
        numpy_metrics(params, "cross_entropy", data, "identity", 0)["train_loss"]
        for params in (networks[3], plane.at(plane.anchors[3].coordinates))
    )
    np.testing.assert_allclose(found.anchors["train_loss"][3], own, rtol=1e-12)
    assert abs(own - shadow) > 1e-2


@pytest.mark.parametrize(
    ("sizes", "dtype", "line"),
    [((3, 2), "float64", False), ((3, 6, 2), "float32", False), ((3, 6, 5, 2), "float64", True)],
)
def test_the_first_layer_is_shared_without_a_trace(rng, sizes, dtype, line):
    data, model = regression(rng), MLP(sizes, "tanh")
    origin, directions = random_params(rng, sizes), [random_params(rng, sizes) for _ in range(1 if line else 2)]
    plane = custom_plane(origin, stack_params(directions))
    axes = grid(plane, 5, 1.5)
    shared, plain = (
        evaluate(m, "squared_error", plane, axes, data, l2=0.1, dtype=dtype) for m in (model, Foreign(model))
    )
    assert_equal(shared, plain, rtol=TIGHT[dtype], atol=TIGHT[dtype])


@pytest.mark.parametrize("foreign", [False, True])
def test_chunks_threads_and_memory_change_nothing_but_rounding(rng, monkeypatch, foreign):
    data, (plane, axes), names = classification(rng), small(rng, (3, 5, 3)), ["train_objective", "train_accuracy"]
    model = Foreign(MLP((3, 5, 3))) if foreign else MLP((3, 5, 3))
    run = lambda **options: evaluate(  # noqa: E731
        model, "cross_entropy", plane, axes, data, l2=0.1, dtype="float64", metrics=names, **options
    )
    whole = run(chunk=30, num_threads=1)
    for options in ({"chunk": 7, "num_threads": 2}, {"chunk": 10**6, "num_threads": 5}):
        assert_equal(whole, run(**options), rtol=1e-12)
    monkeypatch.setattr(surfaces, "CACHE_VALUES", 100)
    monkeypatch.setattr(objective, "CHUNK_VALUES", 100)
    assert_equal(whole, run(), rtol=1e-12)
    monkeypatch.setattr(surfaces, "KEPT_VALUES", 0)
    assert_equal(whole, run(), rtol=1e-12)


@pytest.mark.parametrize("num_params", [1, 10**7])
@pytest.mark.parametrize("foreign", [False, True])
def test_chunks_are_of_nearly_equal_size_and_fit_the_cache(monkeypatch, foreign, num_params):
    monkeypatch.setattr(surfaces, "CACHE_VALUES", 3 * 5 * 12)  # the units of origin and directions, for 12 examples
    monkeypatch.setattr(objective, "CHUNK_VALUES", (3 + 5 + 2) * 12)
    sizes, x = (3, 5, 2), np.ones((100, 3), np.float32)
    model = Foreign(MLP(sizes)) if foreign else MLP(sizes)
    params = MLP(sizes).init(jax.random.key(0))
    size = surfaces.chunk_size(model, params, x, 2, num_params)
    if foreign:
        assert size == 20  # of a foreign model only the outputs are seen: 24 examples would fit
    elif num_params == 1:
        assert size == 12
    else:
        assert size == 100  # with so many params to add up, examples cost nothing


@pytest.mark.parametrize(("foreign", "chunk"), [(False, 3), (True, 3), (False, 10)])
def test_what_overflows_is_inf_there_and_finite_elsewhere(foreign, chunk):
    """The first example, which pads the last chunk, overflows float32: 0 x inf must not make NaN of it."""
    x = np.ones((10, 1))
    x[0] = 1e30
    data = dataset((x, np.ones((10, 1))), (np.ones((4, 1)), np.arange(4.0)[:, None]))
    model = MLP((1, 1), bias=False)
    plane = custom_plane(({"weight": np.zeros((1, 1))},), ({"weight": np.ones((1, 1, 1))},))
    axes = (np.array([-1.0, 0.0, 1.0]),)
    run = lambda dtype: evaluate(  # noqa: E731
        Foreign(model) if foreign else model, "squared_error", plane, axes, data, l2=1.0, dtype=dtype, chunk=chunk
    )
    narrow, wide = run("float32"), run("float64")
    for name in ("train_loss", "train_objective"):
        np.testing.assert_array_equal(narrow.values[name], [np.inf, 1, np.inf])
        np.testing.assert_allclose(wide.values[name], [1e59, 1, 1e59], rtol=1e-6)
    np.testing.assert_array_equal(narrow.values["train_r2"], -np.inf)  # so has a constant target
    np.testing.assert_allclose(narrow.values["test_loss"], [7.5, 3.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("chunk", [3, 10])
def test_what_is_undefined_is_nan_there_and_nowhere_else(chunk):
    data = dataset((np.ones((10, 1)), np.arange(10.0)[:, None]), (np.ones((4, 1)), np.arange(4.0)[:, None]))
    plane = custom_plane({"t": np.zeros(1)}, {"t": np.ones((1, 1))})
    found = evaluate(Root(), "squared_error", plane, (np.array([-1.0, 0.0, 1.0]),), data, chunk=chunk)
    np.testing.assert_allclose(found.values["train_loss"], [np.nan, 28.5, 20.5], rtol=1e-6)
    np.testing.assert_allclose(found.values["test_r2"], [np.nan, 1 - 14 / 5, 1 - 6 / 5], rtol=1e-6)


def test_where_outputs_are_nan_there_is_no_accuracy(rng):
    """Two hidden units overflow, and the outputs are their difference."""
    data, model = classification(rng), MLP((3, 2, 3), "identity", bias=False)
    last = np.array([[1.0], [-1.0]]) * np.ones(3)
    plane = custom_plane(
        ({"weight": np.zeros((3, 2))}, {"weight": last}),
        ({"weight": np.full((1, 3, 2), 1e37)}, {"weight": np.zeros((1, 2, 3))}),
    )
    found = evaluate(model, "cross_entropy", plane, (np.array([-1e4, 0, 1e4]),), data)
    for name in ("train_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_array_equal(np.isnan(found.values[name]), [True, False, True])
    np.testing.assert_allclose(found.centre["train_loss"], np.log(3), rtol=1e-6)
    assert found.centre["train_accuracy"] == np.mean(data.y_train == 0)  # ties go to the first


@pytest.mark.parametrize(
    ("reach", "dtype"), [(1e25, "float32"), (1e40, "float32"), (1e40, "float64"), (1e200, "float64")]
)
def test_far_away_is_no_warning_and_leaves_the_centre_alone(reach, dtype):
    plane = custom_plane({"theta": np.array([1.0, 2.0])}, {"theta": np.eye(2)[:1]})
    found = evaluate(
        Bowl(((1.0, 0.0), (0.0, 2.0))), "squared_error", plane, grid(plane, 3, reach), zero_targets(2), dtype=dtype
    )
    for name in ("train_loss", "train_objective"):
        assert found.values[name][1] == 17
        if dtype == "float64" and reach < 1e150:
            np.testing.assert_allclose(found.values[name][[0, 2]], reach**2, rtol=1e-12)
        else:
            assert not np.any(np.isfinite(found.values[name][[0, 2]]))


def test_a_finite_loss_has_a_finite_objective_however_far_where_there_is_no_penalty():
    plane = custom_plane({"theta": np.array([1.0, 2.0])}, {"theta": np.eye(2)[:1]})
    run = lambda l2: evaluate(  # noqa: E731
        Bowl(((0.0, 2.0),)), "squared_error", plane, grid(plane, 3, 1e200), zero_targets(1), l2=l2, dtype="float64"
    )
    np.testing.assert_array_equal(run(0.0).values["train_objective"], 16)
    np.testing.assert_array_equal(run(0.1).values["train_objective"], [np.inf, 16.25, np.inf])


def test_only_the_asked_metrics_are_there_and_need_their_examples_only(rng):
    data, (plane, axes) = regression(rng, num_targets=3), small(rng)
    every = evaluate(MLP((3, 3)), "squared_error", plane, axes, data, l2=0.1)
    halves = {
        "train": dataclasses.replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0]),
        "test": dataclasses.replace(data, x_train=data.x_train[:0], y_train=data.y_train[:0]),
    }
    for split, half in halves.items():
        for names in ([f"{split}_objective"], [f"{split}_r2", f"{split}_loss"]):
            some = evaluate(MLP((3, 3)), "squared_error", plane, axes, half, metrics=names, l2=0.1)
            assert list(some.values) == list(some.anchors) == names
            for name in names:
                np.testing.assert_array_equal(some.values[name], every.values[name])
        missing = "test" if split == "train" else "train"
        with pytest.raises(ValueError, match=f"there are no {missing} examples"):
            evaluate(MLP((3, 3)), "squared_error", plane, axes, half)


def count(monkeypatch):
    """The coordinates of all rows that are computed from now on."""
    calls, original = [], surfaces.measurer

    def counted(*args, **options):
        measure = original(*args, **options)

        def of_plane(plane):
            at = measure(plane)
            return lambda coordinates: calls.append(coordinates) or at(coordinates)

        return of_plane

    monkeypatch.setattr(surfaces, "measurer", counted)
    return calls


def test_what_was_computed_is_read_and_nothing_is_prepared(rng, tmp_path, monkeypatch):
    data, (plane, axes) = classification(rng), small(rng, num=5, anchors=True)
    run = lambda **options: evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, path=tmp_path, **options)  # noqa: E731
    first, told = run(), []
    monkeypatch.setattr(surfaces, "_programs", None)
    monkeypatch.setattr(surfaces, "_folded", None)
    for options in ({"progress": told.append}, {"chunk": 3, "num_threads": 1}):  # rounding is no other question
        assert_equal(first, run(**options))
    assert len(told) == 5 + 3 + 1
    assert told[-1].startswith("25 of 25 points")
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_surface_goes_on_in_the_row_where_it_stopped(rng, tmp_path, monkeypatch):
    data, (plane, axes) = classification(rng), small(rng, num=5, anchors=True)
    model, calls, told = MLP((3, 3)), count(monkeypatch), []
    whole = evaluate(model, "cross_entropy", plane, axes, data)
    assert [len(c) for c in calls] == [5] * 5 + [1] * 3 + [5]
    np.testing.assert_array_equal(np.concatenate(calls[:5]), list(itertools.product(*axes)))

    def stop(text):
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, "cross_entropy", plane, axes, data, path=tmp_path, progress=stop)
    assert [text.split(",")[0] for text in told] == ["5 of 25 points", "10 of 25 points", "15 of 25 points"]
    calls.clear()
    assert_equal(whole, evaluate(model, "cross_entropy", plane, axes, data, path=tmp_path))
    assert [len(c) for c in calls] == [5, 5, 1, 1, 1, 5]
    np.testing.assert_array_equal(np.concatenate(calls[:2])[:, 0], axes[0][[3] * 5 + [4] * 5])


def test_every_other_question_has_a_folder_of_its_own(rng, tmp_path):
    data, (plane, axes) = classification(rng), small(rng)
    moved = dataclasses.replace(plane, origin=jax.tree.map(lambda leaf: leaf + 1e-12, plane.origin))
    turned = dataclasses.replace(plane, directions=jax.tree.map(lambda leaf: leaf * 1.01, plane.directions))
    question = {"model": MLP((3, 3)), "kind": "cross_entropy", "plane": plane, "axes": axes, "data": data}
    others = [
        {},
        {"model": MLP((3, 3), "tanh")},
        {"kind": "squared_error"},
        {"plane": moved},
        {"plane": turned},
        {"plane": plane.marked({"another": plane.origin})},
        {"axes": grid(plane, 5)},
        {"axes": grid(plane, 3, 0.9)},
        {"data": dataclasses.replace(data, x_test=data.x_test + 1)},
        {"l2": 0.1},
        {"dtype": "float64"},
        {"precision": "float32"},
        {"metrics": ["train_loss"]},
    ]
    for num, other in enumerate(others):
        asked = {"metrics": ["train_objective"]} | question | other
        kept = evaluate(**asked, path=tmp_path)
        assert len(list(tmp_path.iterdir())) == num + 1, other
        assert_equal(evaluate(**asked), kept)
    for folder in tmp_path.iterdir():
        assert json.loads((folder / "rows.json").read_text())["data"]


def test_a_folder_that_cannot_be_written_is_told(rng, tmp_path):
    data, (plane, axes) = classification(rng), small(rng)
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(StoreError, match="cannot write to"):
        evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, path=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "years of work"


def test_a_surface_cannot_be_written_to(rng):
    data, (plane, axes) = classification(rng), small(rng, anchors=True)
    found = evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data)
    arrays = [*found.values.values(), *found.anchors.values(), *found.axes]
    assert len(arrays) == 6 + 6 + 2
    for array in arrays:
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for mapping in (found.values, found.anchors):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["train_loss"] = np.zeros((3, 3))  # pyright: ignore[reportIndexIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.dtype = "float64"  # pyright: ignore[reportAttributeAccessIssue]
    axes[0][0] = 7  # the caller's array is the caller's
    assert found.axes[0][0] == -1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float64_stays_inside(rng, dtype):
    data, (plane, axes) = classification(rng), small(rng)
    evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, dtype=dtype)
    assert not jax.config.read("jax_enable_x64")
    assert jnp.ones(1).dtype == jnp.float32
    with jax.enable_x64(True):
        inside = evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, dtype=dtype)
        assert jax.config.read("jax_enable_x64")
    assert_equal(inside, evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, dtype=dtype))


def test_a_second_surface_of_the_same_shapes_traces_nothing_new(rng):
    traces = []

    @dataclasses.dataclass(frozen=True)
    class Counted(MLP):
        def rest(self, params, z, layer=0):
            if len(z) > 2:  # two examples are looked at before
                traces.append(z.shape)
            return super().rest(params, z)

    data = classification(rng)
    for expected in (1, 1):
        plane, axes = small(rng, (3, 5, 3))
        evaluate(Counted((3, 5, 3)), "cross_entropy", plane, axes, data, metrics=["train_loss"], l2=rng.uniform())
        assert len(traces) == expected


def test_models_that_cannot_be_hashed_and_params_of_any_structure_will_do(rng):
    class Scalar:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def apply(self, params, x):
            return (params["scale"] * x) @ params["deep"][0]

    data = regression(rng)
    networks: list[Params] = [
        {"scale": np.float32(rng.standard_normal()), "deep": [jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)]}
        for _ in range(3)
    ]
    plane = plane_through(*networks)
    axes = grid(plane, 3, common_reach([plane]) / plane.lengths)
    found = evaluate(Scalar(), "squared_error", plane, axes, data, dtype="float64", metrics=["train_loss"])
    for index, params in points(plane, axes):
        expected = np.mean(np.sum((data.x_train * params["scale"] @ params["deep"][0] - data.y_train) ** 2, axis=1))
        np.testing.assert_allclose(found.values["train_loss"][index], expected, rtol=1e-12)


def test_impossible_questions_are_refused(rng):
    data, (plane, axes) = classification(rng), small(rng)
    run = lambda axes=axes, **options: evaluate(MLP((3, 3)), "cross_entropy", plane, axes, data, **options)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"metrics \['train_r2'\] are unknown; for classification there are train_loss"
    ):
        run(metrics=["train_loss", "train_r2"])
    for wrong in (axes[:1], (*axes, axes[0]), (axes[0], np.zeros(0))):
        with pytest.raises(ValueError, match=f"{len(wrong)} axes of lengths .*: the plane has 2"):
            run(wrong)
    for chunk in (0, -3):
        with pytest.raises(ValueError, match=f"chunk = {chunk}: at least one example"):
            run(chunk=chunk)


def test_the_plane_is_measured_where_its_anchors_are_as_well(rng):
    """On the plane both values agree; off it, the plane has those of the nearest point."""
    data, (plane, axes) = classification(rng), small(rng, (3, 4, 3), num=3, anchors=True)
    model = MLP((3, 4, 3))
    far = jax.tree.map(lambda leaf: leaf + rng.standard_normal(leaf.shape), plane.origin)
    plane = plane.marked({"far": far})
    surface = evaluate(model, "cross_entropy", plane, axes, data, dtype="float64")
    for name, projected in surface.projected.items():
        np.testing.assert_allclose(projected[:-1], surface.anchors[name][:-1], rtol=1e-9)
    nearest = plane.at(plane.anchors[-1].coordinates)
    again = evaluate(model, "cross_entropy", plane.marked({"near": nearest}), axes, data, dtype="float64")
    assert plane.anchors[-1].residual > 0.1
    np.testing.assert_allclose(surface.projected["train_loss"][-1], again.anchors["train_loss"][-1], rtol=1e-9)
    assert abs(surface.anchors["train_loss"][-1] - surface.projected["train_loss"][-1]) > 1e-3


@pytest.mark.parametrize(("name", "message"), [("first", "is not linear"), ("rest", "is not apply")])
def test_a_first_layer_that_is_none_is_refused(rng, name, message):
    class Wrong(MLP):
        def first(self, params, x):
            return super().first(params, x) + (name == "first")

        def rest(self, params, z, layer=0):
            return super().rest(params, z - (name == "first")) + (name == "rest")

    data, (plane, axes) = classification(rng), small(rng, (3, 4, 3), num=3)
    with pytest.raises(ValueError, match=message):
        evaluate(Wrong((3, 4, 3)), "cross_entropy", plane, axes, data)


def test_an_origin_that_is_not_on_the_grid_has_no_value_there(rng):
    data, (plane, _) = classification(rng), small(rng, num=3)
    surface = evaluate(MLP((3, 3)), "cross_entropy", plane, (np.array([0.0, 1.0]), np.array([0.0, 3.0])), data)
    np.testing.assert_equal(surface.centre["train_loss"], surface.values["train_loss"][0, 0])
    shifted = evaluate(MLP((3, 3)), "cross_entropy", plane, (np.array([0.5, 1.0]), np.array([0.0, 3.0])), data)
    with pytest.raises(ValueError, match="not on this grid"):
        _ = shifted.centre
