"""Datasets: read or draw the examples, check them, split them, standardise them.

Every source gives a `_Source` of raw arrays; one function, `_prepare`, turns it into the `Dataset` that training sees.
"""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from sklearn import datasets as bundled
from sklearn.model_selection import train_test_split

from wspace import files, synthetic
from wspace.errors import DataError
from wspace.spec import HUGE, TINY, DataSpec

Task = Literal["classification", "regression"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples ready for training; the arrays are C-contiguous and read-only.

    Attributes:
        name: where they come from.
        task: classification (y int32 labels) or regression (y float32 targets).
        x_train, x_test: (example, feature) float32.
        y_train, y_test: (example,) int32 labels 0 .. num_classes-1, or (example, target) float32.
        num_classes: 0 for regression.
        input_shape: shape of one input before flattening, e.g. (8, 8); its product is the number of features.
        feature_names, class_names: for tables and figures; class_names is empty for regression.
        x_mean, x_scale: what was subtracted from inputs, and what they were divided by then, (feature,) float64.
    """

    name: str
    task: Task
    x_train: Float[np.ndarray, "train feature"]
    y_train: Shaped[np.ndarray, "train ..."]
    x_test: Float[np.ndarray, "test feature"]
    y_test: Shaped[np.ndarray, "test ..."]
    num_classes: int
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    x_mean: np.ndarray | float = 0.0
    x_scale: np.ndarray | float = 1.0

    def as_given(self, x: Float[np.ndarray, "*_ feature"]) -> Float[np.ndarray, "*_ feature"]:
        """Inputs in the units in which they came, x x_scale + x_mean, float64."""
        return x.astype(float) * self.x_scale + self.x_mean

    @property
    def num_features(self) -> int:
        """Inputs of a network for this data."""
        return self.x_train.shape[1]

    @property
    def num_outputs(self) -> int:
        """Outputs of a network for this data: classes, or targets."""
        return self.num_classes or self.y_train.shape[1]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the four arrays with their types and shapes."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Source:
    """Raw arrays; `test` is given where the source has a split of its own."""

    x: np.ndarray
    y: np.ndarray
    task: Task
    test: tuple[np.ndarray, np.ndarray] | None = None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def load(spec: DataSpec) -> Dataset:
    """The dataset that a spec describes.

    Raises:
        DataError: it cannot be read, or cannot be learned from (see `make`).
    """
    if spec.name in _BUNDLED:
        source = _load_bundled(spec)
    elif spec.name in _FILES:
        try:
            source = _FILES[spec.name](spec)
        except OSError as error:
            raise DataError(f"data.path = {spec.path!r} cannot be read: {error.strerror}") from error
    else:
        x, y = synthetic.draw(spec)
        source = _Source(x, y, "classification" if y.ndim == 1 else "regression")
    file = Path(spec.path).name if spec.name in ("idx", "npz") else ""
    return _prepare(file or spec.dataset or spec.name, source, spec)


def make(
    x: Shaped[np.ndarray, "..."],
    y: Shaped[np.ndarray, "..."],
    *,
    task: Task,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    spec: DataSpec | None = None,
    name: str = "arrays",
    feature_names: tuple[str, ...] = (),
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """A dataset from arrays of one's own, checked, split and standardised as any other.

    Args:
        x: inputs (example, ...), any real or integer dtype; the axes after the first are the input's shape.
        y: integer labels 0 .. K-1 (example,), or real targets (example,) or (example, target).
        task: classification or regression.
        test: (x, y) of a test set that is already split off; otherwise the spec's split applies.
        spec: split, standardisation and constant features; the default spec's when None.
        name, feature_names, class_names: for tables and figures.

    Raises:
        DataError: not numbers, not finite in float32, lengths that differ, labels out of range or missing, too few
            examples, or features that are constant over the train set (unless kept).
    """
    return _prepare(name, _Source(x, y, task, test, feature_names, class_names), spec or DataSpec())


_BUNDLED = {
    "digits": bundled.load_digits,
    "iris": bundled.load_iris,
    "wine": bundled.load_wine,
    "breast_cancer": bundled.load_breast_cancer,
    # by default it comes scaled with statistics of all examples, those of the test set included
    "diabetes": functools.partial(bundled.load_diabetes, scaled=False),
}


def _load_bundled(spec: DataSpec) -> _Source:
    bunch: Any = _BUNDLED[spec.name]()
    x = bunch.images if spec.name == "digits" else bunch.data
    task: Task = "regression" if spec.name == "diabetes" else "classification"
    classes = () if task == "regression" else tuple(str(c) for c in bunch.target_names)
    return _Source(x, bunch.target, task, feature_names=tuple(map(str, bunch.feature_names)), class_names=classes)


def _load_idx(spec: DataSpec) -> _Source:
    """A folder with images and labels (one pair, or train-* and t10k-* pairs), or the images file of a pair."""
    path = Path(spec.path)
    if path.is_dir():
        images = sorted(p for p in path.iterdir() if re.search("idx[2-9]", p.name))
        if not images:
            raise DataError(f"{path} has no IDX images: a file like images-idx3-ubyte(.gz) is expected in it")
    elif path.exists():
        images = [path]
    else:
        raise DataError(f"there is no file or folder {str(path)!r} (data.path of an idx dataset)")
    test_images = [p for p in images if p.name.startswith(("t10k", "test"))] if len(images) > 1 else []
    train_images = [p for p in images if p not in test_images]
    if len(train_images) != 1 or len(test_images) > 1:
        names = [p.name for p in images]
        raise DataError(
            f"{path} has the images {names}: one file, or one train-* and one t10k-* (or test-*), is expected"
        )
    x, y = _first(str(path), *_read_pair(train_images[0]), spec.num_examples)
    return _Source(x, y, "classification", _read_pair(test_images[0]) if test_images else None)


def _read_pair(images: Path) -> tuple[np.ndarray, np.ndarray]:
    name = re.sub("idx[2-9]", "idx1", images.name.replace("images", "labels"))
    if name == images.name:
        raise DataError(f"{images} is not named like images: *images*idx3* is expected, and *labels*idx1* beside it")
    stem = name.removesuffix(".gz")
    labels = next((p for p in (images.with_name(stem), images.with_name(stem + ".gz")) if p.exists()), None)
    if labels is None:
        raise DataError(f"{images} has no labels beside it: {name} is expected")
    x = files.read_idx(images)
    return (x / 255 if x.dtype == np.uint8 else x), files.read_idx(labels)


def _load_npz(spec: DataSpec) -> _Source:
    """Arrays x and y, or x_train, y_train, x_test, y_test. Integer y are labels, real y are targets."""
    path = Path(spec.path)
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r} (data.path of an npz dataset)")
    arrays = files.read_npz(path)
    names = ("x_train", "y_train", "x_test", "y_test") if "x_train" in arrays else ("x", "y")
    if missing := [name for name in names if name not in arrays]:
        raise DataError(
            f"{path} has the arrays {sorted(arrays)}, {missing} {'is' if len(missing) == 1 else 'are'} missing: "
            "x and y, or x_train, y_train, x_test and y_test, are expected"
        )
    x, y, *test = (arrays[name] for name in names)
    task: Task = "classification" if y.dtype.kind in "iub" else "regression"
    return _Source(*_first(str(path), x, y, spec.num_examples), task, (test[0], test[1]) if test else None)


def _load_openml(spec: DataSpec) -> _Source:
    """A dense numeric dataset of openml.org, cached below data.path (default: scikit-learn's data home)."""
    name = f"OpenML dataset {spec.dataset!r} version {spec.version}"
    try:
        bunch: Any = bundled.fetch_openml(
            spec.dataset, version=spec.version, data_home=spec.path or None, as_frame=False, parser="liac-arff"
        )
    except Exception as error:  # a damaged cache or an unexpected answer makes its parsers raise anything
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    names = tuple(map(str, bunch.feature_names))
    if nominal := [feature for feature in names if feature in (bunch.categories or {})]:
        raise DataError(f"{name} has categories in {nominal[:5]}: numeric features are expected")
    if bunch.target is None:
        raise DataError(f"{name} names no target: a column of labels or targets is expected")
    if not isinstance(bunch.data, np.ndarray):  # also, the parser leaves labels that a sparse row omits undefined
        raise DataError(f"{name} is sparse, of shape {bunch.data.shape}: a dense dataset is expected")
    x, target = _first(name, bunch.data, bunch.target, spec.num_examples)
    if target.dtype.kind in "OUS":
        classes, y = np.unique(target.astype(str), return_inverse=True)
        return _Source(x, y, "classification", feature_names=names, class_names=tuple(classes.tolist()))
    return _Source(x, target, "regression", feature_names=names)


_FILES = {"idx": _load_idx, "npz": _load_npz, "openml": _load_openml}


def _first(name: str, x: np.ndarray, y: np.ndarray, num: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first num examples (None: all), from arrays that agree on how many there are."""
    _check_lengths(name, x, y)
    if num is not None and num > len(x):
        raise DataError(f"{name}: data.num_examples = {num}, but there are only {len(x)}")
    return x[:num], y[:num]


def _prepare(name: str, source: _Source, spec: DataSpec) -> Dataset:
    """Check -> split -> standardise -> check what only shows in float32."""
    x, y = source.x, _check_examples(name, source.x, source.y, source.task)
    input_shape = x.shape[1:] or (1,)
    if source.test is None:
        num_classes = _check_labels(name, y) if source.task == "classification" else 0
        x_train, x_test, y_train, y_test = _split(name, x, y, spec, num_classes)
    else:
        x_test, y_test = source.test[0], _check_examples(f"{name} (test)", *source.test, source.task)
        x_train, y_train = x, y
        for what, test, train in (("inputs", x_test, x_train), ("targets", y_test, y_train)):
            if test.shape[1:] != train.shape[1:]:
                raise DataError(f"{name}: test {what} have shape {test.shape[1:]}, train {what} {train.shape[1:]}")
        num_classes = _check_labels(name, y, y_test) if source.task == "classification" else 0
    x_train, x_test = (np.reshape(a, (len(a), -1)) for a in (x_train, x_test))
    names = source.feature_names or tuple(f"x{i}" for i in range(x_train.shape[1]))
    classes = source.class_names or tuple(str(i) for i in range(num_classes))
    for what, given, num in (("feature", names, x_train.shape[1]), ("class", classes, num_classes)):
        if len(given) != num:
            raise DataError(f"{name}: {len(given)} {what} names are given, {num} are expected")
    x_mean, x_scale = 0.0, 1.0
    if spec.standardize:
        x_mean, x_scale = _moments(x_train)
        x_train, x_test = ((x - x_mean) / x_scale for x in (x_train, x_test))
        if source.task == "regression":
            y_mean, y_scale = _moments(y_train)
            y_train, y_test = ((y - y_mean) / y_scale for y in (y_train, y_test))
    dtype = np.int32 if source.task == "classification" else np.float32
    x_train, x_test = _frozen(x_train, np.float32), _frozen(x_test, np.float32)
    y_train, y_test = _frozen(y_train, dtype), _frozen(y_test, dtype)
    if not all(np.all(np.isfinite(a)) for a in (x_train, y_train, x_test, y_test)):
        raise DataError(
            f"{name}: test examples lie more than {HUGE} standard deviations of the train set from its mean: "
            "float32 cannot hold them"
        )
    _check_constant(name, x_train, names, spec.constant_features, len(input_shape) > 1)
    if source.task == "regression" and np.any(_is_constant(y_train)):
        raise DataError(f"{name}: a target is constant over the train set: targets to learn are expected to vary")
    if source.task == "regression" and np.all(_is_constant(y_test)):
        raise DataError(
            f"{name}: all {len(y_test)} test targets are equal: at least two that differ are expected, as r2 compares "
            "errors with their scatter; take more examples or a larger data.test_fraction"
        )
    return Dataset(
        name, source.task, x_train, y_train, x_test, y_test, num_classes, input_shape, names, classes, x_mean, x_scale
    )


def _check_lengths(name: str, x: np.ndarray, y: np.ndarray) -> None:
    for what, array in (("inputs", x), ("labels or targets", y)):
        if array.ndim == 0 or array.size == 0:
            raise DataError(f"{name}: {what} have shape {array.shape}: at least one example with one value is expected")
    if len(x) != len(y):
        raise DataError(f"{name}: {len(x)} inputs but {len(y)} labels or targets: as many are expected")


def _check_examples(name: str, x: np.ndarray, y: np.ndarray, task: Task) -> np.ndarray:
    """y as int64 (example,) labels, or as (example, target), once x and y are numbers that float32 can hold."""
    _check_lengths(name, x, y)
    for what, array in (("inputs", x), ("labels" if task == "classification" else "targets", y)):
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{name}: {what} of dtype {array.dtype} are not numbers: real or integer arrays are expected"
            )
        if array.dtype.kind != "f":
            continue
        bad = ~np.isfinite(array)
        if np.any(bad):
            raise DataError(
                f"{name}: {np.count_nonzero(bad)} of the {what} are NaN or infinite, the first at {_first_place(bad)} "
                "(example, ...): finite numbers are expected; clean them first, nothing is filled in"
            )
        if what != "labels" and max(float(array.max()), -float(array.min())) > HUGE:
            place = _first_place(np.abs(array) > HUGE)
            raise DataError(
                f"{name}: {array[place]:g} of the {what}, at {place} (example, ...), is beyond float32's range: "
                f"at most {HUGE} is expected"
            )
    if task == "regression":
        if y.ndim > 2:
            raise DataError(f"{name}: targets have shape {y.shape}: (example,) or (example, target) is expected")
        return y.reshape(len(y), -1)
    if y.ndim != 1:
        raise DataError(f"{name}: labels have shape {y.shape}: one integer an example is expected")
    with np.errstate(invalid="ignore"):  # what does not fit int64 is reported next
        labels = y.astype(np.int64)
    if np.any(labels != y):
        raise DataError(f"{name}: label {y[labels != y][0]} is not an integer in range: 0 .. K-1 are expected")
    return labels


def _first_place(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def _check_labels(name: str, y: Int[np.ndarray, "train"], y_test: Int[np.ndarray, "test"] | None = None) -> int:
    """The number of classes K; labels must be 0 .. K-1 and every class must occur."""
    every = y if y_test is None else np.concatenate([y, y_test])
    if every.min() < 0:
        raise DataError(f"{name}: label {every.min()} is out of range: 0 .. K-1 are expected")
    present = np.unique(y)
    if len(present) < 2:
        raise DataError(f"{name}: all labels are {present[0]}: at least two classes are expected")
    if every.max() != len(present) - 1:
        absent = np.argmax(np.append(present, -1) != np.arange(len(present) + 1))
        raise DataError(
            f"{name}: labels run up to {every.max()}, but no train example has label {absent}: "
            f"labels 0 .. K-1 are expected, every class at least once"
        )
    return len(present)


def _split(name: str, x: np.ndarray, y: np.ndarray, spec: DataSpec, num_classes: int) -> list[np.ndarray]:
    """[x_train, x_test, y_train, y_test]; num_test = round(test_fraction * number of examples), at least 1."""
    num_test = max(1, round(spec.test_fraction * len(x)))
    if num_test >= len(x):
        raise DataError(
            f"{name}: data.test_fraction = {spec.test_fraction} of {len(x)} examples leaves none for training: "
            "at least one is expected"
        )
    if spec.split == "ordered":
        parts = [x[:-num_test], x[-num_test:], y[:-num_test], y[-num_test:]]
    else:
        if num_classes:
            _check_stratified(name, np.bincount(y), num_test)
        stratify = y if num_classes else None
        parts: list[Any] = train_test_split(x, y, test_size=num_test, random_state=spec.split_seed, stratify=stratify)
    if num_classes and np.any(absent := np.bincount(parts[2], minlength=num_classes) == 0):
        raise DataError(
            f"{name}: the {spec.split} split leaves no example of class {np.argmax(absent)} for training, one of each "
            "is expected: change data.split or data.test_fraction"
        )
    return parts


def _check_stratified(name: str, counts: Int[np.ndarray, "class"], num_test: int) -> None:
    if counts.min() < 2:
        raise DataError(f"{name}: class {counts.argmin()} has one example: a stratified split needs two of each class")
    num_train = counts.sum() - num_test
    if min(num_test, num_train) < len(counts):
        raise DataError(
            f"{name}: {num_train} train and {num_test} test examples for {len(counts)} classes: a stratified split "
            "needs one of each class on both sides; change data.test_fraction or the number of examples"
        )


def _check_constant(
    name: str, x: Float[np.ndarray, "train feature"], names: tuple[str, ...], rule: str, image: bool
) -> None:
    constant = np.flatnonzero(_is_constant(x))
    if len(constant) == x.shape[1]:
        raise DataError(f"{name}: every feature is constant over the train set: features that vary are expected")
    if len(constant) and (rule == "refuse" or (rule == "auto" and not image)):
        raise DataError(
            f"{name}: {len(constant)} features are constant over the train set, {[names[i] for i in constant[:5]]}: "
            "features that vary are expected; remove them, or keep them with data.constant_features = 'keep'"
        )


def _is_constant(a: Shaped[np.ndarray, "train _"]) -> Bool[np.ndarray, " _"]:
    """Which columns vary by less than float32 can tell from 0."""
    return np.subtract(a.max(axis=0), a.min(axis=0), dtype=float) < TINY


def _moments(train: Shaped[np.ndarray, "train _"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the train set in float64; 1 for constant columns, which are only centred."""
    constant = _is_constant(train)
    mean = np.where(constant, train[0], train.mean(axis=0, dtype=float))  # exact: a constant column becomes 0
    scale = np.where(constant, 1.0, train.std(axis=0, dtype=float))
    return mean, scale


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # what does not fit float32 is reported by the caller
        array = np.ascontiguousarray(array, dtype)
    array = array.copy() if array.base is not None else array
    array.setflags(write=False)
    return array
