import dataclasses
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets as bundled
from sklearn.datasets import _openml

from wspace import data
from wspace.errors import DataError
from wspace.spec import DataSpec

BUNDLED = {  # examples, input shape, classes (0: regression), examples a class
    "digits": (1797, (8, 8), 10, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "iris": (150, (4,), 3, [50, 50, 50]),
    "wine": (178, (13,), 3, [59, 71, 48]),
    "breast_cancer": (569, (30,), 2, [212, 357]),
    "diabetes": (442, (10,), 0, []),
}


def plain_standardise(train, test):
    train, test = train.astype(float), test.astype(float)
    num = len(train)
    mean = sum(train) / num
    deviation = np.sqrt(sum((row - mean) ** 2 for row in train) / num)
    deviation[np.ptp(train, axis=0) == 0] = 1
    return (train - mean) / deviation, (test - mean) / deviation


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_set_has_its_known_shape_and_classes(name):
    num, input_shape, num_classes, counts = BUNDLED[name]
    dataset = data.load(DataSpec(name=name))
    num_test = round(0.2 * num)
    assert dataset.name == name
    assert dataset.x_train.shape == (num - num_test, np.prod(input_shape))
    assert dataset.x_test.shape == (num_test, np.prod(input_shape))
    assert (dataset.input_shape, dataset.num_features) == (input_shape, np.prod(input_shape))
    assert (dataset.num_classes, dataset.num_outputs) == (num_classes, num_classes or 1)
    assert dataset.task == ("classification" if num_classes else "regression")
    assert len(dataset.feature_names) == dataset.num_features
    assert len(dataset.class_names) == num_classes
    assert {type(text) for text in dataset.feature_names + dataset.class_names} == {str}
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    labels = np.concatenate([dataset.y_train, dataset.y_test])
    if num_classes:
        assert (dataset.y_train.dtype, dataset.y_train.ndim) == (np.int32, 1)
        assert np.bincount(labels).tolist() == counts
    else:
        assert (dataset.y_train.dtype, dataset.y_train.shape) == (np.float32, (num - num_test, 1))


@pytest.mark.parametrize("name", BUNDLED)
def test_statistics_are_of_the_train_set_only(name):
    dataset, raw = data.load(DataSpec(name=name)), data.load(DataSpec(name=name, standardize=False))
    pairs = [(dataset.x_train, dataset.x_test, raw.x_train, raw.x_test)]
    if dataset.task == "regression":
        pairs.append((dataset.y_train, dataset.y_test, raw.y_train, raw.y_test))
    for train, test, raw_train, raw_test in pairs:
        varying = np.ptp(train, axis=0) > 0
        np.testing.assert_allclose(train.mean(axis=0, dtype=float), 0, atol=1e-6)
        np.testing.assert_allclose(train.std(axis=0, dtype=float)[varying], 1, rtol=1e-5)
        assert np.abs(test.mean(axis=0)).max() > 1e-3
        expected_train, expected_test = plain_standardise(raw_train, raw_test)
        np.testing.assert_allclose(train, expected_train, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(test, expected_test, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["digits", "wine"])
@pytest.mark.parametrize("standardize", [True, False])
def test_inputs_can_be_had_as_they_were_given(name, standardize):
    dataset, raw = (
        data.load(DataSpec(name=name, standardize=standardize)),
        data.load(DataSpec(name=name, standardize=False)),
    )
    np.testing.assert_allclose(dataset.as_given(dataset.x_train), raw.x_train, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dataset.as_given(dataset.x_test[3]), raw.x_test[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUNDLED)
def test_train_and_test_together_are_the_source(name):
    load = getattr(bundled, f"load_{name}")
    x, y = load(return_X_y=True, **({"scaled": False} if name == "diabetes" else {}))
    dataset = data.load(DataSpec(name=name, standardize=False))
    joined_x = np.concatenate([dataset.x_train, dataset.x_test])
    joined_y = np.concatenate([dataset.y_train, dataset.y_test]).reshape(-1)
    result = sorted(map(tuple, np.column_stack([joined_x, joined_y]).tolist()))
    expected = sorted(map(tuple, np.column_stack([x, y]).astype(np.float32).tolist()))
    assert result == expected


def test_classes_are_in_the_sources_order():
    dataset = data.load(DataSpec(name="breast_cancer", standardize=False, constant_features="keep"))
    x, y = map(np.asarray, bundled.load_breast_cancer(return_X_y=True))
    label = {tuple(row): k for row, k in zip(x.astype(np.float32).tolist(), y.tolist(), strict=True)}
    assert dataset.class_names == ("malignant", "benign")
    assert dataset.feature_names[0] == "mean radius"
    assert [label[tuple(row)] for row in dataset.x_test.tolist()] == dataset.y_test.tolist()


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer"])
@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_every_class_keeps_its_share(name, fraction):
    dataset = data.load(DataSpec(name=name, test_fraction=fraction))
    test, all_ = (np.bincount(y) for y in (dataset.y_test, np.concatenate([dataset.y_train, dataset.y_test])))
    assert np.all(np.abs(test - fraction * all_) <= 1)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(4, 120),
    st.floats(0.05, 0.9),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["random", "ordered"]),
    st.sampled_from(["classification", "regression"]),
)
def test_split_puts_each_example_on_one_side(num, fraction, seed, split, task):
    """The one feature is the example's number, and so is the target."""
    spec = DataSpec(test_fraction=fraction, split_seed=seed, split=split, standardize=False)
    x, y = np.arange(num), np.arange(num) % 2 if task == "classification" else np.arange(num)
    num_test = max(1, round(fraction * num))
    try:
        dataset = data.make(x, y, task=task, spec=spec)
    except DataError:
        assert min(num_test, num - num_test) < 2
        return
    train, test = dataset.x_train.ravel(), dataset.x_test.ravel()
    assert sorted([*train, *test]) == list(range(num))
    assert len(test) == num_test
    for side, labels in ((train, dataset.y_train), (test, dataset.y_test)):
        np.testing.assert_array_equal(labels.ravel(), side % 2 if task == "classification" else side)
    if split == "ordered":
        np.testing.assert_array_equal(test, np.arange(num)[-num_test:])
        np.testing.assert_array_equal(train, np.arange(num)[:-num_test])


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_the_split_seed_decides_a_random_split(name):
    first, again, other = (data.load(DataSpec(name=name, split_seed=seed)) for seed in (1, 1, 2))
    assert first.hash == again.hash
    assert first.hash != other.hash
    assert data.load(DataSpec(name=name, split="ordered")).hash != data.load(DataSpec(name=name)).hash


def test_ordered_split_of_a_bundled_set_is_its_tail():
    dataset = data.load(DataSpec(name="digits", split="ordered", standardize=False))
    x, y = bundled.load_digits(return_X_y=True)
    np.testing.assert_array_equal(dataset.x_test, x[-359:])
    np.testing.assert_array_equal(dataset.y_test, y[-359:])
    with pytest.raises(DataError, match="the ordered split leaves no example of class 2 for training"):
        data.load(DataSpec(name="iris", split="ordered", test_fraction=0.4))


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@pytest.mark.parametrize("standardize", [True, False])
def test_arrays_are_contiguous_and_cannot_be_written_to(rng, standardize):
    x, y = np.asfortranarray(rng.normal(size=(40, 3)).astype(np.float32)), rng.normal(size=(40, 2)).astype(np.float32)
    spec = DataSpec(standardize=standardize)
    own = data.make(x, y, task="regression", spec=spec, test=(x[:5].copy("C"), y[:5].copy("C")))
    for dataset in (own, data.load(DataSpec(name="digits", standardize=standardize))):
        for array in (getattr(dataset, field) for field in ARRAYS):
            assert array.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            dataset.__setattr__("name", "other")


@pytest.mark.parametrize("standardize", [True, False])
def test_the_callers_arrays_are_neither_changed_nor_frozen_nor_shared(rng, standardize):
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40).astype(np.int32)
    before = x.copy(), y.copy()
    dataset = data.make(x, y, task="classification", test=(x, y), spec=DataSpec(standardize=standardize))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    digest = dataset.hash
    x += 1
    y[:] = 0
    assert dataclasses.replace(dataset).hash == digest


def test_hash_is_the_same_in_another_process():
    program = (
        "from wspace import data; from wspace.spec import DataSpec;"
        "print(*[data.load(DataSpec(name=name)).hash for name in ('iris', 'diabetes', 'teacher')])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    hashes = [data.load(DataSpec(name=name)).hash for name in ("iris", "diabetes", "teacher")]
    assert output.stdout.split() == hashes
    assert len(set(hashes)) == 3
    assert all(len(digest) == 64 for digest in hashes)


def test_hash_is_of_every_value_type_and_shape(rng):
    dataset = data.make(rng.normal(size=(20, 2)), rng.normal(size=20), task="regression")
    hashes = [dataset.hash]
    for field in ARRAYS:
        array = getattr(dataset, field)
        for place in ((0, 0), (-1, -1)):
            changed = array.copy()
            changed[place] = np.nextafter(changed[place], np.float32(np.inf))
            hashes.append(dataclasses.replace(dataset, **{field: changed}).hash)
    zeros = dataclasses.replace(dataset, y_train=np.zeros((16, 2), np.float32))
    hashes += [zeros.hash, dataclasses.replace(zeros, y_train=np.zeros((16, 1), np.float64)).hash]
    hashes.append(dataclasses.replace(zeros, y_train=np.zeros((16, 2), np.int32)).hash)
    hashes.append(dataclasses.replace(zeros, y_train=np.zeros((16, 1, 2), np.float32)).hash)
    assert len(set(hashes)) == len(hashes)
    assert dataclasses.replace(dataset, name="other").hash == hashes[0]


def test_constant_pixels_are_kept_and_become_zero():
    dataset = data.load(DataSpec(name="digits"))
    constant = np.ptp(dataset.x_train, axis=0) == 0
    assert np.sum(constant) >= 1
    np.testing.assert_array_equal(dataset.x_train[:, constant], 0)
    assert data.load(DataSpec(name="digits", constant_features="keep")).hash == dataset.hash
    with pytest.raises(DataError, match=r"digits: \d features are constant over the train set, \['pixel_0_0', "):
        data.load(DataSpec(name="digits", constant_features="refuse"))


@pytest.mark.parametrize("constant", [0.1, -7.0, 1e30, 0.0])
def test_constant_columns_are_refused_by_name_or_kept_and_centred_to_zero(rng, constant):
    x, y = rng.normal(size=(35, 4)), np.arange(35) % 2
    x[:, [1, 3]] = constant
    names = ("height", "width", "depth", "volume")
    for rule in ("auto", "refuse"):
        with pytest.raises(DataError, match=r"2 features are constant .*\['width', 'volume'\].*'keep'"):
            data.make(x, y, task="classification", feature_names=names, spec=DataSpec(constant_features=rule))
    kept = data.make(x, y, task="classification", spec=DataSpec(constant_features="keep"))
    for array in (kept.x_train, kept.x_test):
        np.testing.assert_array_equal(array[:, [1, 3]], 0)
    with pytest.raises(DataError, match="every feature is constant"):
        data.make(x[:, [1]], y, task="classification", spec=DataSpec(constant_features="keep"))
    x_train = np.column_stack([np.zeros(35), y])
    with pytest.raises(DataError, match=r"1 features are constant .*\['x0'\]"):  # in train, not in test
        data.make(x_train, y, task="classification", test=(x_train + 1, y))


@pytest.mark.parametrize(("factor", "offset"), [(1e-50, 0), (1e-200, 0), (1, 1e12)])
def test_what_float32_cannot_tell_apart_is_constant(rng, factor, offset):
    x = offset + factor * rng.normal(size=(30, 2))
    with pytest.raises(DataError, match="every feature is constant"):
        data.make(x, np.arange(30) % 2, task="classification", spec=DataSpec(standardize=False))
    with pytest.raises(DataError, match="a target is constant"):
        data.make(rng.normal(size=(30, 2)), x, task="regression", spec=DataSpec(standardize=False))


@pytest.mark.parametrize("x_scale", [1e-30, 1e-10, 1, 1e10, 1e37])
def test_scales_that_float32_holds_are_standardised(rng, x_scale):
    z = rng.normal(size=(50, 3))
    result = data.make(z * x_scale, np.arange(50) % 2, task="classification")
    expected = data.make(z, np.arange(50) % 2, task="classification")
    np.testing.assert_allclose(result.x_train, expected.x_train, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, ">i4", np.uint64, np.float16, ">f8", np.longdouble])
def test_any_real_or_integer_type_is_taken(rng, dtype):
    x = rng.integers(0, 2, (60, 2)).astype(dtype)
    y = rng.integers(0, 2, 60).astype(dtype)
    expected = plain_standardise(x[:40].astype(float), x[40:].astype(float))
    for task in ("classification", "regression"):
        dataset = data.make(x[:40], y[:40], task=task, test=(x[40:], y[40:]))
        np.testing.assert_allclose(dataset.x_train, expected[0], rtol=1e-5)
        np.testing.assert_allclose(dataset.x_test, expected[1], rtol=1e-5)
    labels = data.make(x, y, task="classification", spec=DataSpec(split="ordered")).y_train
    np.testing.assert_array_equal(labels, y[:48].astype(int))


def test_the_inputs_shape_is_kept_and_its_axes_are_flattened_in_order(rng):
    x = rng.normal(size=(30, 2, 3, 4))
    dataset = data.make(x, np.arange(30) % 3, task="classification", spec=DataSpec(split="ordered", standardize=False))
    assert dataset.input_shape == (2, 3, 4)
    np.testing.assert_array_equal(dataset.x_train.reshape(-1, 2, 3, 4), x[:24].astype(np.float32))


def test_targets_may_be_several(rng):
    x, y = rng.normal(size=(30, 2)), rng.normal(3, 5, (30, 4))
    dataset = data.make(x, y, task="regression")
    assert (dataset.num_outputs, dataset.num_classes, dataset.class_names) == (4, 0, ())
    np.testing.assert_allclose(dataset.y_train.std(axis=0), 1, rtol=1e-5)
    assert data.make(x[:, 0], y[:, 0], task="regression").input_shape == (1,)


X, LABELS, TARGETS = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2, np.linspace(0, 1, 20)


def with_value(array, place, value):
    array = array.astype(float)
    array[place] = value
    return array


BAD_ARRAYS = {
    "strings": (X.astype(str), LABELS, "inputs of dtype <U.* are not numbers: real or integer arrays are expected"),
    "objects": (X.astype(object), LABELS, "inputs of dtype object"),
    "complex": (X.astype(complex), LABELS, "inputs of dtype complex128"),
    "dates": (X.astype("datetime64[s]"), LABELS, "inputs of dtype datetime64"),
    "string labels": (X, LABELS.astype(str), "labels of dtype <U.* are not numbers"),
    "lengths": (X, LABELS[:-1], "20 inputs but 19 labels or targets: as many are expected"),
    "no examples": (X[:0], LABELS[:0], r"inputs have shape \(0, 3\): at least one example"),
    "no features": (X[:, :0], LABELS, r"inputs have shape \(20, 0\): at least one example with one value"),
    "scalar": (np.array(1.0), LABELS, r"inputs have shape \(\): at least"),
    "scalar label": (X, np.array(1), r"labels or targets have shape \(\): at least"),
    "NaN": (with_value(X, (7, 2), np.nan), LABELS, r"1 of the inputs are NaN or infinite, the first at \(7, 2\)"),
    "Inf": (with_value(X, (slice(4, 6), 1), np.inf), LABELS, r"2 of the inputs .*, the first at \(4, 1\)"),
    "-Inf image": (with_value(X, (3, 0), -np.inf)[:, None], LABELS, r"the first at \(3, 0, 0\)"),
    "NaN label": (X, with_value(LABELS, 9, np.nan), r"1 of the labels are NaN or infinite, the first at \(9,\)"),
    "overflow": (with_value(X, (7, 2), -1e39), LABELS, r"-1e\+39 of the inputs, at \(7, 2\) .* beyond float32's range"),
    "large overflow": (with_value(X, (7, 2), 1e300), LABELS, r"1e\+300 of the inputs, at \(7, 2\)"),
    "one class": (X, LABELS * 0 + 4, "all labels are 4: at least two classes are expected"),
    "negative": (X, LABELS * 2 - 1, r"label -1 is out of range: 0 \.\. K-1 are expected"),
    "gap": (X, LABELS * 2, "labels run up to 2, but no train example has label 1"),
    "from 1": (X, LABELS + 1, "labels run up to 2, but no train example has label 0"),
    "far": (X, LABELS * 10**12, "labels run up to 1000000000000, but no train example has label 1"),
    "fraction": (X, LABELS + 0.5, "label 0.5 is not an integer"),
    "huge label": (X, LABELS * 1e300, r"label 1e\+300 is not an integer in range"),
    "uint64 label": (
        X,
        LABELS.astype(np.uint64) * np.uint64(2**64 - 1),
        "label 18446744073709551615 is not an integer",
    ),
    "one-hot": (X, np.eye(2)[LABELS], r"labels have shape \(20, 2\): one integer an example is expected"),
    "single": (X, np.arange(20) // 19, "class 1 has one example: a stratified split needs two of each class"),
    "many classes": (
        X,
        np.arange(20) // 2,
        "16 train and 4 test examples for 10 classes: a stratified split needs one",
    ),
}


@pytest.mark.parametrize(("x", "y", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused_with_what_and_where(x, y, message):
    with pytest.raises(DataError, match=message) as error:
        data.make(x, y, task="classification", name="mine")
    assert str(error.value).startswith("mine: ")


BAD_TARGETS = {
    "NaN": (with_value(TARGETS, 5, np.nan), r"1 of the targets are NaN or infinite, the first at \(5,\)"),
    "overflow": (with_value(TARGETS, 5, 1e200), r"1e\+200 of the targets, at \(5,\)"),
    "constant": (TARGETS * 0 + 2, "a target is constant over the train set: targets to learn are expected to vary"),
    "one of two constant": (np.stack([TARGETS, TARGETS * 0], axis=1), "a target is constant"),
    "three axes": (TARGETS[:, None, None], r"targets have shape \(20, 1, 1\): \(example,\) or \(example, target\)"),
    "no targets": (np.zeros((20, 0)), r"labels or targets have shape \(20, 0\)"),
    "strings": (TARGETS.astype(str), "targets of dtype <U32 are not numbers"),
}


@pytest.mark.parametrize(("y", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_targets_are_refused_with_what_and_where(y, message):
    with pytest.raises(DataError, match=message):
        data.make(X, y, task="regression")


BAD_TESTS = {
    "NaN": ((with_value(X, (2, 1), np.nan), LABELS), r"\(test\): 1 of the inputs are NaN .* \(2, 1\)"),
    "lengths": ((X, LABELS[:3]), r"\(test\): 20 inputs but 3 labels"),
    "dtype": ((X.astype(str), LABELS), r"\(test\): inputs of dtype <U"),
    "features": ((X[:, :2], LABELS), r"test inputs have shape \(2,\), train inputs \(3,\)"),
    "input shape": ((X[:, None], LABELS), r"test inputs have shape \(1, 3\), train inputs \(3,\)"),
    "unseen label": ((X, LABELS + 1), "labels run up to 2, but no train example has label 2"),
    "negative label": ((X, LABELS - 1), "label -1 is out of range"),
    "far beyond": ((X * 1e38, LABELS), "test examples lie more than .* standard deviations of the train set"),
}


@pytest.mark.parametrize(("test", "message"), BAD_TESTS.values(), ids=BAD_TESTS)
def test_bad_test_sets_are_refused(test, message):
    scale = 1e-5 if "deviations" in message else 1
    with pytest.raises(DataError, match=message):
        data.make(X * scale, LABELS, task="classification", test=test)


def test_test_targets_must_be_as_many_as_train_targets():
    with pytest.raises(DataError, match=r"test targets have shape \(1,\), train targets \(2,\)"):
        data.make(X, np.stack([TARGETS] * 2, axis=1) * [1, 2], task="regression", test=(X, TARGETS))


def test_a_test_set_may_lack_a_class_and_is_kept_whole():
    dataset = data.make(X, LABELS, task="classification", test=(X[::2], LABELS[::2]))
    assert (dataset.num_classes, len(dataset.x_train), dataset.y_test.tolist()) == (2, 20, [0] * 10)


def test_a_rare_class_must_reach_the_train_set(rng):
    y = np.zeros(1000, int)
    y[:2] = 1
    with pytest.raises(DataError, match="the random split leaves no example of class 1 for training, one of each is"):
        data.make(rng.normal(size=(1000, 2)), y, task="classification", spec=DataSpec(test_fraction=0.9))


def test_too_few_examples_or_names_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"data.test_fraction = 0.99 of 20 examples leaves none for training"):
        data.make(X, LABELS, task="classification", spec=DataSpec(test_fraction=0.99))
    with pytest.raises(DataError, match="2 feature names are given, 3 are expected"):
        data.make(X, LABELS, task="classification", feature_names=("a", "b"))
    with pytest.raises(DataError, match="3 class names are given, 2 are expected"):
        data.make(X, LABELS, task="classification", class_names=("a", "b", "c"))
    with pytest.raises(DataError, match="1 class names are given, 0 are expected"):
        data.make(X, TARGETS, task="regression", class_names=("a",))


# IDX


def write_idx(path, values, code=0x08):
    content = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (30, 5, 4), np.uint8), (np.arange(30) % 3).astype(np.uint8)


@pytest.mark.parametrize(("x_suffix", "y_suffix"), [("", ""), (".gz", ".gz"), ("", ".gz"), (".gz", "")])
@pytest.mark.parametrize("stem", ["images-idx3-ubyte", "train-images-idx3-ubyte", "train-images.idx3-ubyte"])
def test_one_pair_of_idx_files_is_split_and_scaled(tmp_path, images, stem, x_suffix, y_suffix):
    x, y = images
    write_idx(tmp_path / f"{stem}{x_suffix}", x)
    write_idx(tmp_path / f"{stem.replace('images', 'labels').replace('idx3', 'idx1')}{y_suffix}", y)
    for path in (tmp_path, tmp_path / f"{stem}{x_suffix}"):
        dataset = data.load(DataSpec(name="idx", path=str(path), split="ordered", standardize=False))
        assert (dataset.input_shape, dataset.num_classes, dataset.class_names) == ((5, 4), 3, ("0", "1", "2"))
        np.testing.assert_array_equal(dataset.x_train, (x[:24].reshape(24, 20) / 255).astype(np.float32))
        np.testing.assert_array_equal(dataset.x_test, (x[24:].reshape(6, 20) / 255).astype(np.float32))
        np.testing.assert_array_equal(dataset.y_train, y[:24])


@pytest.mark.parametrize("test_stem", ["t10k", "test"])
def test_train_and_test_pairs_keep_their_split(tmp_path, images, test_stem):
    x, y = images
    for stem, part in (("train", slice(0, 20)), (test_stem, slice(20, 30))):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", x[part])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", y[part])
    dataset = data.load(DataSpec(name="idx", path=str(tmp_path)))
    np.testing.assert_array_equal(dataset.y_train, y[:20])
    np.testing.assert_array_equal(dataset.y_test, y[20:])
    train, test = plain_standardise(x[:20].reshape(20, 20), x[20:].reshape(10, 20))
    np.testing.assert_allclose(dataset.x_train, train, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dataset.x_test, test, rtol=1e-4, atol=1e-5)
    fewer = data.load(DataSpec(name="idx", path=str(tmp_path), num_examples=10))
    assert (len(fewer.x_train), len(fewer.x_test)) == (10, 10)
    np.testing.assert_array_equal(fewer.y_train, y[:10])


def test_other_idx_types_and_ranks_are_taken_as_they_are(tmp_path, rng):
    x = rng.normal(size=(30, 4)).astype(">f4")
    write_idx(tmp_path / "images-idx2-float", x, 0x0D)
    write_idx(tmp_path / "labels-idx1-float", (np.arange(30) % 2).astype(">i4"), 0x0C)
    dataset = data.load(DataSpec(name="idx", path=str(tmp_path), split="ordered", standardize=False))
    np.testing.assert_array_equal(dataset.x_train, x[:24])
    np.testing.assert_array_equal(dataset.y_train, np.arange(24) % 2)


def test_bad_idx_folders_are_refused(tmp_path, images):
    x, y = images

    def load(path=tmp_path, **options):
        return data.load(DataSpec(name="idx", path=str(path), **options))

    with pytest.raises(DataError, match=r"there is no file or folder '.*missing' \(data.path of an idx dataset\)"):
        load(tmp_path / "missing")
    with pytest.raises(DataError, match=r"data.path = 'aaa.* cannot be read|there is no file or folder 'aaa"):
        load("a" * 5000)
    with pytest.raises(DataError, match=r"has no IDX images: a file like images-idx3-ubyte\(\.gz\) is expected"):
        load()
    write_idx(tmp_path / "train-images-idx3-ubyte", x)
    with pytest.raises(DataError, match="has no labels beside it: train-labels-idx1-ubyte is expected"):
        load()
    labels = tmp_path / "train-labels-idx1-ubyte"
    write_idx(labels, y[:-1])
    with pytest.raises(DataError, match="30 inputs but 29 labels"):
        load()
    with pytest.raises(DataError, match="30 inputs but 29 labels"):  # though the first 10 would do
        load(num_examples=10)
    write_idx(labels, y * 2)
    with pytest.raises(DataError, match="labels run up to 4, but no train example has label 1"):
        load()
    write_idx(labels, y.view(np.int8) - np.int8(1), 0x09)
    with pytest.raises(DataError, match="label -1 is out of range"):
        load()
    write_idx(labels, np.stack([y, y]))
    with pytest.raises(DataError, match="30 inputs but 2 labels"):
        load()
    labels.write_bytes(b"\0\0\x08\x01\0\0\0\x1e")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte has 0 bytes of values, its header \(30,\)"):
        load()
    write_idx(labels, y)
    assert load().num_classes == 3
    with pytest.raises(DataError, match=r"data.num_examples = 31, but there are only 30"):
        load(num_examples=31)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte is not named like images: \*images\*idx3\* is expected"):
        load(labels)
    write_idx(tmp_path / "more-images-idx3-ubyte", x)
    with pytest.raises(
        DataError, match=r"has the images \['more-images-idx3-ubyte', 'train-.*one train-\* and one t10k"
    ):
        load()


# npz


def write_npz(tmp_path, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    return DataSpec(name="npz", path=str(tmp_path / "a.npz"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, ">i2"])
def test_npz_with_integer_y_is_classification(tmp_path, dtype):
    dataset = data.load(write_npz(tmp_path, x=X, y=LABELS.astype(dtype)))
    own = data.make(X, LABELS, task="classification", name="npz")
    assert (dataset.task, dataset.num_classes, dataset.hash) == ("classification", 2, own.hash)


def test_npz_with_real_y_is_regression(tmp_path):
    for y in (TARGETS, TARGETS[:, None], X[:, :2], TARGETS.astype(np.float16), LABELS.astype(float)):
        dataset = data.load(write_npz(tmp_path, x=X[:, None], y=y))
        own = data.make(X[:, None], y, task="regression")
        assert (dataset.task, dataset.hash, dataset.input_shape) == ("regression", own.hash, (1, 3))


def test_npz_with_its_own_test_set_keeps_it(tmp_path):
    spec = write_npz(tmp_path, x_train=X[:12], y_train=LABELS[:12], x_test=X[12:], y_test=LABELS[12:])
    dataset = data.load(spec)
    np.testing.assert_array_equal(dataset.y_train, LABELS[:12])
    np.testing.assert_array_equal(dataset.y_test, LABELS[12:])
    np.testing.assert_allclose(dataset.x_test, plain_standardise(X[:12], X[12:])[1], rtol=1e-5, atol=1e-6)
    fewer = data.load(DataSpec(name="npz", path=spec.path, num_examples=6))
    np.testing.assert_array_equal(fewer.y_train, LABELS[:6])
    np.testing.assert_array_equal(fewer.y_test, LABELS[12:])


def test_files_give_the_dataset_its_name(tmp_path, rng):
    np.savez(tmp_path / "mine.npz", x=rng.normal(size=(40, 2)), y=np.arange(40) % 2)
    assert data.load(DataSpec(name="npz", path=str(tmp_path / "mine.npz"))).name == "mine.npz"


def test_npz_keeps_the_first_examples(tmp_path):
    spec = write_npz(tmp_path, x=X, y=TARGETS)
    whole = data.make(X[:10], TARGETS[:10], task="regression", spec=DataSpec(split="ordered"))
    fewer = data.load(DataSpec(name="npz", path=spec.path, num_examples=10, split="ordered"))
    assert fewer.hash == whole.hash
    assert data.load(DataSpec(name="npz", path=spec.path, num_examples=20)).hash == data.load(spec).hash
    with pytest.raises(DataError, match=r"data.num_examples = 21, but there are only 20"):
        data.load(DataSpec(name="npz", path=spec.path, num_examples=21))


BAD_NPZ = {
    "no y": ({"x": X}, r"has the arrays \['x'\], \['y'\] is missing: x and y, or x_train, y_train, x_test and y_test"),
    "no x": ({"X": X, "Y": LABELS}, r"has the arrays \['X', 'Y'\], \['x', 'y'\] are missing"),
    "no test": ({"x_train": X, "y_train": LABELS}, r"\['x_test', 'y_test'\] are missing"),
    "no arrays": ({}, r"has the arrays \[\], \['x', 'y'\] are missing"),
    "scalar x": ({"x": np.float64(1), "y": LABELS}, r"inputs have shape \(\)"),
    "scalar y": ({"x": X, "y": np.int64(3)}, r"labels or targets have shape \(\)"),
    "lengths": ({"x": X, "y": LABELS[:9]}, "20 inputs but 9 labels"),
    "strings": ({"x": X, "y": LABELS.astype(str)}, "targets of dtype <U"),
    "structured": ({"x": np.zeros(20, [("a", "f8")]), "y": LABELS}, r"inputs of dtype \[\('a', '<f8'\)\]"),
    "objects": ({"x": X.astype(object), "y": LABELS}, r"x\.npy is an object array, .*: numbers are expected"),
    "NaN": ({"x": with_value(X, (19, 1), np.nan), "y": LABELS}, r"the first at \(19, 1\)"),
}


@pytest.mark.parametrize("num_examples", [None, 20])
@pytest.mark.parametrize(("arrays", "message"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_bad_npz_is_refused(tmp_path, arrays, message, num_examples):
    spec = write_npz(tmp_path, **arrays)
    with pytest.raises(DataError, match=message):
        data.load(DataSpec(name="npz", path=spec.path, num_examples=num_examples))


@pytest.mark.parametrize("path", ["missing.npz", ".", "a" * 5000, "a\0b"])
def test_missing_npz_is_refused(path):
    with pytest.raises(DataError, match=r"there is no file '.*' \(data.path of an npz dataset\)|cannot be read: "):
        data.load(DataSpec(name="npz", path=path))


# OpenML: scikit-learn's own client, against a server on this machine


class OpenMLServer:
    """Answers scikit-learn's OpenML client with what was published; `num_requests` counts its questions."""

    def __init__(self):
        self.pages: dict[str, bytes] = {}
        self.num_requests = self.num_published = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.num_requests += 1
                page = outer.pages.get(self.path)
                content = gzip.compress(
                    b'{"error": {"code": "372", "message": "No results"}}' if page is None else page
                )
                self.send_response(412 if page is None else 200)
                self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format, *args):  # noqa: A002 (its name in the base class); quiet
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def urlopen(self, request, *_, **__):
        here = f"http://127.0.0.1:{self.server.server_port}{urlparse(request.full_url).path}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return direct.open(urllib.request.Request(here, headers=dict(request.header_items())))

    def publish(self, name, columns, rows, target, *, kind="ARFF", num_missing=0):
        """columns: {name: "numeric" | "string" | [categories]}; rows: lines of the ARFF's data section."""
        self.num_published += 1
        number = self.num_published  # caches are by number
        lines = [f"@relation {name}"]
        lines += [f"@attribute {c} {'{' + ','.join(t) + '}' if isinstance(t, list) else t}" for c, t in columns.items()]
        arff = "\n".join([*lines, "@data", *rows, ""]).encode()
        api, url = "/api/v1/json/data", f"/data/v1/download/{number}/{name}.arff"
        listed = {"did": number, "name": name, "version": 1, "status": "active", "format": kind}
        described = {
            "id": str(number),
            "name": name,
            "version": "1",
            "description": "planted",
            "format": kind,
            "status": "active",
            "file_id": str(number),
            "url": f"https://www.openml.org{url}",
            "md5_checksum": hashlib.md5(arff).hexdigest(),
        }
        features = [
            {
                "index": str(i),
                "name": column,
                "data_type": "nominal" if isinstance(type_, list) else type_,
                "is_target": str(column in target).lower(),
                "is_ignore": "false",
                "is_row_identifier": str(column == "id").lower(),
                "number_of_missing_values": str(num_missing),
            }
            for i, (column, type_) in enumerate(columns.items())
        ]
        qualities = [{"name": "NumberOfInstances", "value": f"{len(rows)}.0"}]
        answers = {
            f"{api}/list/data_name/{name}/limit/2/data_version/1": {"data": {"dataset": [listed]}},
            f"{api}/{number}": {"data_set_description": described},
            f"{api}/features/{number}": {"data_features": {"feature": features}},
            f"{api}/qualities/{number}": {"data_qualities": {"quality": qualities}},
        }
        self.pages = {path: json.dumps(answer).encode() for path, answer in answers.items()}
        self.pages[url] = self.pages[f"/data/v1/download/{number}"] = arff


@pytest.fixture
def openml(monkeypatch):
    server = OpenMLServer()
    monkeypatch.setattr(_openml, "urlopen", server.urlopen)
    yield server
    server.close()


@pytest.fixture
def load_openml(tmp_path):
    def load(dataset="planted", **options):
        return data.load(DataSpec(name="openml", dataset=dataset, path=str(tmp_path / "cache"), **options))

    return load


NUMBERS = {"id": "numeric", "height": "numeric", "width": "numeric"}
SPECIES = ["rose", "iris", "lily", "moss"]


def test_openml_nominal_target_gives_classes(openml, load_openml, rng):
    x, y = rng.normal(size=(30, 2)), [SPECIES[i % 3] for i in range(30)]
    rows = [f"{i},{a!r},{b!r},{label}" for i, ((a, b), label) in enumerate(zip(x.tolist(), y, strict=True))]
    openml.publish("planted", {**NUMBERS, "species": SPECIES}, rows, ["species"])
    dataset = load_openml(split="ordered", standardize=False)
    assert (dataset.name, dataset.task) == ("planted", "classification")
    assert dataset.feature_names == ("height", "width")  # the row number is no feature
    assert dataset.class_names == ("iris", "lily", "rose")  # moss does not occur
    np.testing.assert_array_equal(dataset.x_train, x[:24].astype(np.float32))
    assert [dataset.class_names[k] for k in dataset.y_train] == y[:24]
    assert [dataset.class_names[k] for k in dataset.y_test] == y[24:]
    few = load_openml(num_examples=5, split="ordered", test_fraction=0.4)
    assert (len(few.x_train), len(few.x_test), few.class_names) == (3, 2, ("iris", "lily", "rose"))


def test_openml_that_is_cut_names_only_the_classes_that_are_left(openml, load_openml):
    rows = [f"{i},{i % 7},{i % 5},{SPECIES[i // 10]}" for i in range(30)]
    openml.publish("planted", {**NUMBERS, "species": SPECIES}, rows, ["species"])
    assert load_openml(num_examples=20).class_names == ("iris", "rose")
    with pytest.raises(DataError, match=r"data.num_examples = 31, but there are only 30"):
        load_openml(num_examples=31)


def test_openml_numeric_targets_give_regression(openml, load_openml, rng):
    values = rng.normal(size=(30, 4))
    rows = [f"0,{','.join(map(repr, row))}" for row in values.tolist()]
    for targets in (["price"], ["width", "price"]):
        columns = {**NUMBERS, "weight": "numeric", "price": "numeric"}
        openml.publish(f"planted-{len(targets)}", columns, rows, targets)
        dataset = load_openml(f"planted-{len(targets)}", standardize=False, split="ordered")
        chosen = [["height", "width", "weight", "price"].index(name) for name in targets]
        assert (dataset.task, dataset.num_outputs) == ("regression", len(targets))
        np.testing.assert_array_equal(dataset.y_train, values[:24, chosen].astype(np.float32))
        np.testing.assert_array_equal(dataset.x_train, np.delete(values[:24], chosen, axis=1).astype(np.float32))


def test_openml_is_asked_once_and_then_read_from_the_cache(openml, load_openml, tmp_path):
    rows = [f"{i},{i % 7},{i % 5},{SPECIES[i % 2]}" for i in range(30)]
    openml.publish("planted", {**NUMBERS, "species": SPECIES}, rows, ["species"])
    first = load_openml("Planted")
    asked = openml.num_requests
    assert asked >= 5
    openml.pages = {}
    assert load_openml("planted").hash == first.hash
    assert openml.num_requests == asked
    assert list((tmp_path / "cache").rglob("*.gz"))


def test_openml_categories_strings_and_sparse_rows_are_refused(openml, load_openml):
    rows = [f"{i},{i % 7},red,{SPECIES[i % 2]}" for i in range(30)]
    columns = {"id": "numeric", "height": "numeric", "colour": ["red", "blue"], "species": SPECIES}
    openml.publish("nominal", columns, rows, ["species"])
    with pytest.raises(
        DataError, match=r"'nominal' version 1 has categories in \['colour'\]: numeric features are exp"
    ):
        load_openml("nominal")
    openml.publish("text", {**columns, "colour": "string"}, rows, ["species"])
    with pytest.raises(DataError, match="'text' version 1 cannot be read: ValueError: STRING attributes are not"):
        load_openml("text")
    openml.publish("untargeted", NUMBERS, ["1,2,3"] * 9, [])
    with pytest.raises(DataError, match="names no target: a column of labels or targets is expected"):
        load_openml("untargeted")
    rows = [f"{{0 {i}, 1 {i % 7}, 3 {SPECIES[1 + i % 2]}}}" for i in range(30)]
    openml.publish("sparse", {**NUMBERS, "species": SPECIES}, rows, ["species"], kind="Sparse_ARFF")
    with pytest.raises(DataError, match=r"is sparse, of shape \(30, 2\): a dense dataset is expected"):
        load_openml("sparse")


def test_openml_missing_values_are_refused_where_they_are(openml, load_openml):
    rows = [f"{i},{i % 7},{i % 5},{SPECIES[i % 2]}" for i in range(30)]
    rows[11] = "11,2,?,iris"
    openml.publish("planted", {**NUMBERS, "species": SPECIES}, rows, ["species"])
    with pytest.raises(DataError, match=r"planted: 1 of the inputs are NaN or infinite, the first at \(11, 1\)"):
        load_openml()
    rows[11] = "11,2,3,?"
    openml.publish("unlabelled", {**NUMBERS, "species": SPECIES}, rows, ["species"], num_missing=1)
    with pytest.raises(DataError, match="Target column 'species' has 1 missing values"):
        load_openml("unlabelled")


@pytest.mark.filterwarnings("ignore:Invalid cache, redownloading:RuntimeWarning")
def test_openml_file_that_is_not_what_was_promised_is_refused(openml, load_openml):
    rows = [f"{i},{i % 7},{i % 5},{SPECIES[i % 2]}" for i in range(30)]
    openml.publish("changed", {**NUMBERS, "species": SPECIES}, rows, ["species"])
    for path in (path for path in openml.pages if path.startswith("/data")):
        openml.pages[path] = openml.pages[path].replace(b"3,3,3", b"3,3,4")
    with pytest.raises(DataError, match=r"'changed' version 1 cannot be read: ValueError: The md5 checksum .*does not"):
        load_openml("changed")
    openml.publish("malformed", {**NUMBERS, "species": SPECIES}, [*rows, "1,2,3"], ["species"])
    with pytest.raises(DataError, match="'malformed' version 1 cannot be read: BadDataFormat"):
        load_openml("malformed")
    openml.publish("strange", {**NUMBERS, "species": SPECIES}, [*rows, "1,2,3,fish"], ["species"])
    with pytest.raises(DataError, match="'strange' version 1 cannot be read: BadNominalValue"):
        load_openml("strange")


@pytest.mark.filterwarnings("ignore:Invalid cache, redownloading:RuntimeWarning")
def test_openml_answers_that_are_not_openmls_are_refused(openml, load_openml):
    for content in (b"<html>log in to the network</html>", b"{}", b""):
        openml.publish("planted", {**NUMBERS, "species": SPECIES}, ["1,2,3,iris"] * 9, ["species"])
        openml.pages = dict.fromkeys(openml.pages, content)
        with pytest.raises(DataError, match="OpenML dataset 'planted' version 1 cannot be read: "):
            load_openml()


def test_unknown_openml_name_is_refused(openml, load_openml):
    with pytest.raises(DataError, match=r"OpenML dataset 'no_such_set' version 3 cannot be read: .*not found"):
        load_openml("no_such_set", version=3)
    assert openml.num_requests == 2


@pytest.mark.filterwarnings("ignore:A network error occurred:UserWarning")
def test_openml_without_a_network_is_refused(monkeypatch, load_openml):
    def unplugged(*_, **__):
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr(_openml, "urlopen", unplugged)
    monkeypatch.setattr(_openml.time, "sleep", lambda _: None)
    with pytest.raises(DataError, match=r"OpenML dataset 'planted' version 1 cannot be read: .*unreachable"):
        load_openml()
