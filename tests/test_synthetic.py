import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from wspace import data, synthetic
from wspace.errors import DataError
from wspace.spec import DataSpec, parse

NAMES = ["xor", "spirals", "moons", "teacher", "random_labels"]


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_draw(name):
    x, y = synthetic.draw(DataSpec(name=name, seed=3))
    again_x, again_y = synthetic.draw(DataSpec(name=name, seed=3, split_seed=9))
    other_x, _ = synthetic.draw(DataSpec(name=name, seed=4))
    np.testing.assert_array_equal(x, again_x)
    np.testing.assert_array_equal(y, again_y)
    assert not np.any(x == other_x)


@pytest.mark.parametrize(
    ("options", "num_features", "num_classes"),
    [
        ({"name": "xor"}, 2, 2),
        ({"name": "xor", "num_features": 5}, 5, 2),
        ({"name": "spirals"}, 2, 2),
        ({"name": "spirals", "num_classes": 7}, 2, 7),
        ({"name": "moons"}, 2, 2),
        ({"name": "teacher"}, 20, 0),
        ({"name": "teacher", "num_features": 3, "num_classes": 4, "teacher_hidden": (8, 8)}, 3, 4),
        ({"name": "random_labels"}, 20, 10),
        ({"name": "random_labels", "num_features": 3, "num_classes": 4}, 3, 4),
    ],
)
@pytest.mark.parametrize("num", [None, 300])
def test_shapes_types_and_classes(options, num_features, num_classes, num):
    x, y = synthetic.draw(DataSpec(num_examples=num, **options))
    num = 1000 if num is None else num
    assert (x.shape, x.dtype) == ((num, num_features), np.float64)
    if num_classes:
        assert (y.shape, y.dtype) == ((num,), np.int64)
        assert np.unique(y).tolist() == list(range(num_classes))
    else:
        assert (y.shape, y.dtype) == ((num, 1), np.float64)


@pytest.mark.parametrize(("name", "classes"), [("spirals", 3), ("random_labels", 10), ("moons", 2)])
def test_classes_are_balanced_and_shuffled(name, classes):
    spec = DataSpec(name=name, num_examples=1001, num_classes=None if name == "moons" else classes)
    y = synthetic.draw(spec)[1]
    assert np.ptp(np.bincount(y)) <= 1
    assert np.ptp(np.bincount(y[:500])) > 0  # not in order 0, 1, 2, 0, 1, 2, ...
    assert np.all(np.bincount(y[:500], minlength=classes) > 0.5 * 500 / classes)


@pytest.mark.parametrize("dimension", [2, 3, 4, 5])
def test_xor_without_noise_is_the_parity_of_the_signs(dimension):
    x, y = synthetic.draw(DataSpec(name="xor", num_features=dimension, noise=0.0))
    np.testing.assert_array_equal(np.abs(x), 1)
    np.testing.assert_array_equal(np.prod(x, axis=1), np.where(y == 1, -1, 1))
    assert len(np.unique(x, axis=0)) == 2**dimension


def test_noise_has_the_asked_standard_deviation():
    for noise, spec in ((0.1, DataSpec(name="xor", num_examples=20000)), (0.2, DataSpec(name="xor", noise=0.2))):
        x, _ = synthetic.draw(spec)
        np.testing.assert_allclose(np.std(x - np.sign(x)), noise, rtol=0.1)
    for name in ("spirals", "teacher"):
        clean = synthetic.draw(DataSpec(name=name, noise=0.0))
        noisy = synthetic.draw(DataSpec(name=name, noise=0.5))
        which = 0 if name == "spirals" else 1
        np.testing.assert_allclose(np.std(noisy[which] - clean[which]), 0.5, rtol=0.1)
        np.testing.assert_array_equal(noisy[1 - which], clean[1 - which])


@pytest.mark.parametrize("arms", [2, 3, 5])
def test_a_spirals_arm_is_told_by_its_angle(arms):
    x, y = synthetic.draw(DataSpec(name="spirals", num_classes=arms, noise=0.0))
    radius = np.hypot(*x.T)
    turns = np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) - 1.25 * radius
    arm = turns * arms
    np.testing.assert_allclose(arm, np.round(arm), atol=1e-9)
    np.testing.assert_array_equal(np.round(arm).astype(int) % arms, y)
    assert radius.max() <= 1
    np.testing.assert_allclose(np.mean(radius**2), 0.5, atol=0.05)  # uniform density: r^2 is uniform


def test_moons_without_noise_are_two_half_circles():
    x, y = synthetic.draw(DataSpec(name="moons", noise=0.0))
    upper, lower = x[y == 0], x[y == 1] - [1, 0.5]
    np.testing.assert_allclose(np.hypot(*upper.T), 1, rtol=1e-12)
    np.testing.assert_allclose(np.hypot(*lower.T), 1, rtol=1e-12)
    assert upper[:, 1].min() > -1e-12
    assert lower[:, 1].max() < 1e-12


def plain_teacher(seed, num, num_features, hidden, num_outputs):
    """Example by example and unit by unit, from the same stream of random numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, num_features))
    values = x.tolist()
    fan_in = num_features
    for layer, fan_out in enumerate([*hidden, num_outputs]):
        weight = rng.standard_normal((fan_in, fan_out)) * (2 / fan_in) ** 0.5
        if layer:
            values = [[max(v, 0.0) for v in row] for row in values]
        values = [[sum(v * w for v, w in zip(row, column, strict=True)) for column in weight.T] for row in values]
        fan_in = fan_out
    return x, np.array(values)


@pytest.mark.parametrize("hidden", [(), (4,), (8, 5)])
@pytest.mark.parametrize("classes", [0, 3])
def test_teacher_without_noise_is_a_plain_network(hidden, classes):
    spec = DataSpec(
        name="teacher", seed=1, num_examples=80, num_features=6, num_classes=classes, teacher_hidden=hidden, noise=0.0
    )
    x, y = synthetic.draw(spec)
    expected_x, z = plain_teacher(1, 80, 6, hidden, classes or 1)
    np.testing.assert_allclose(x, expected_x, rtol=1e-12)
    if classes:
        np.testing.assert_array_equal(y, np.argmax(z - z.mean(axis=0), axis=1))
    else:
        np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-12)


def test_teacher_without_hidden_units_is_linear_and_with_them_is_not():
    for hidden, linear in (((), True), ((4,), False)):
        x, y = synthetic.draw(DataSpec(name="teacher", teacher_hidden=hidden))
        residual = np.linalg.lstsq(x, y, rcond=None)[1]
        assert (residual.item() < 1e-20 * np.sum(y**2)) == linear


def test_teacher_that_never_names_a_class_says_what_to_change():
    with pytest.raises(DataError, match=r"teacher: \d+ of 50 classes have no example among 60, .*teacher_hidden"):
        synthetic.draw(DataSpec(name="teacher", num_classes=50, num_examples=60, teacher_hidden=(2,)))


def test_random_labels_know_nothing_of_the_inputs():
    x, y = synthetic.draw(DataSpec(name="random_labels", num_examples=6000, num_classes=4))
    means = np.stack([x[y == k].mean(axis=0) * np.sqrt(np.sum(y == k)) for k in range(4)])
    chi_squared, freedom = np.sum((means - means.mean(axis=0)) ** 2), 3 * 20
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)
    fit = LogisticRegression(max_iter=500).fit(x[:4000], y[:4000])
    assert abs(fit.score(x[4000:], y[4000:]) - 0.25) < 0.05  # five standard errors


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_beyond_memory_is_refused_before_it_starts(name):
    with pytest.raises(DataError, match=f"{name} with 1000000000 examples of 20 features takes 149.0 GiB, at most 4"):
        synthetic.draw(DataSpec(name=name, num_examples=10**9))
    with pytest.raises(DataError, match="teacher with a layer from 20 to 1000000000 units"):
        synthetic.draw(DataSpec(name="teacher", teacher_hidden=(10**9,)))


SYNTHETIC = {
    "num_examples": (NAMES, st.integers(4, 400)),
    "num_features": (["xor", "teacher", "random_labels"], st.integers(1, 8)),
    "num_classes": (["spirals", "teacher", "random_labels"], st.sampled_from([2, 3, 5])),
    "noise": (["xor", "spirals", "moons", "teacher"], st.floats(0, 10)),
    "teacher_hidden": (["teacher"], st.lists(st.integers(1, 6), max_size=3)),
    "seed": (NAMES, st.integers(0, 2**32 - 1)),
    "split_seed": (NAMES, st.integers(0, 2**32 - 1)),
    "test_fraction": (NAMES, st.floats(0.01, 0.99)),
    "split": (NAMES, st.sampled_from(["random", "ordered"])),
    "standardize": (NAMES, st.booleans()),
}


@st.composite
def synthetic_options(draw):
    name = draw(st.sampled_from(NAMES))
    options = {option: values for option, (names, values) in SYNTHETIC.items() if name in names}
    return {"name": name, **draw(st.fixed_dictionaries({}, optional=options))}


@settings(deadline=None, max_examples=300)
@given(synthetic_options())
def test_any_spec_gives_sound_data_or_a_clear_error(options):
    spec = parse({"data": options}).data
    dataset, refusal = None, ""
    try:
        dataset = data.load(spec)
    except DataError as error:
        refusal = str(error)
    if dataset is None:
        assert spec.name in refusal
        assert "expected" in refusal or "needs" in refusal
        return
    num = spec.num_examples or synthetic.NUM_EXAMPLES
    assert len(dataset.x_train) + len(dataset.x_test) == num
    assert len(dataset.x_test) == max(1, round(spec.test_fraction * num))
    assert np.all(np.isfinite(dataset.x_train))
    if dataset.task == "classification":
        assert np.unique(dataset.y_train).tolist() == list(range(dataset.num_classes))
        assert set(dataset.y_test.tolist()) <= set(range(dataset.num_classes))
    else:
        assert dataset.y_train.shape[1] == dataset.y_test.shape[1] == 1
    if spec.standardize:
        np.testing.assert_allclose(dataset.x_train.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(dataset.x_train.std(axis=0), 1, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1))
def test_default_options_always_give_data(name, seed):
    assert data.load(DataSpec(name=name, seed=seed)).num_outputs >= 1
