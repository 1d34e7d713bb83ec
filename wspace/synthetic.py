"""Problems drawn from a seed: xor, spirals, moons, teacher, random labels. Plain NumPy, float64, reproducible."""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.datasets import make_moons

from wspace.errors import DataError
from wspace.files import check_size
from wspace.spec import DataSpec

Examples = tuple[Float[np.ndarray, "example feature"], Shaped[np.ndarray, "example ..."]]

NUM_EXAMPLES = 1000


def draw(spec: DataSpec) -> Examples:
    """Draw the examples of a synthetic problem.

    Args:
        spec: `name` is one of xor, spirals, moons, teacher, random_labels; `seed` decides the draw.

    Returns:
        x (example, feature) and y: labels (example,) int64, or targets (example, 1) float64.

    Raises:
        DataError: the draw is larger than files.MAX_BYTES, or a teacher leaves a class without examples.
    """
    num = NUM_EXAMPLES if spec.num_examples is None else spec.num_examples
    width = spec.num_features or 20
    check_size(f"{spec.name} with {num} examples of {width} features", 8 * num * width)
    return _PROBLEMS[spec.name](spec, num, np.random.default_rng(spec.seed))


def xor(spec: DataSpec, num: int, rng: np.random.Generator) -> Examples:
    """Parity: x = s + noise, s uniform on {-1, 1}^d (d = 2), y = 1 where an odd number of s are negative."""
    signs = rng.choice([-1.0, 1.0], (num, spec.num_features or 2))
    return signs + rng.normal(0, _noise(spec, 0.1), signs.shape), (signs < 0).sum(axis=1) % 2


def spirals(spec: DataSpec, num: int, rng: np.random.Generator) -> Examples:
    """K interleaved arms: radius r = sqrt(u), angle 2 pi (1.25 r + k/K), u uniform on [0, 1], plus noise.

    Source: the two-spirals benchmark (Lang & Witbrock 1988), with any number of arms and uniform density.
    """
    classes = spec.num_classes or 2
    label = rng.permutation(np.arange(num) % classes)
    radius = np.sqrt(rng.uniform(size=num))
    angle = 2 * np.pi * (1.25 * radius + label / classes)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return x + rng.normal(0, _noise(spec, 0.03), x.shape), label


def moons(spec: DataSpec, num: int, rng: np.random.Generator) -> Examples:
    """scikit-learn's two half circles, plus noise."""
    x, y = make_moons(num, noise=_noise(spec, 0.1), random_state=int(rng.integers(2**31)))
    return np.asarray(x, float), np.asarray(y)


def teacher(spec: DataSpec, num: int, rng: np.random.Generator) -> Examples:
    """A random ReLU network's answers on x ~ N(0, I): its output plus noise, or the class of its largest logit.

    Weights are N(0, 2/fan_in), no biases. Logits are centred over the examples, so that no class takes all. The noise
    is added to the output, or to the logits.
    """
    classes = spec.num_classes or 0
    sizes = (spec.num_features or 20, *((4,) if spec.teacher_hidden is None else spec.teacher_hidden), classes or 1)
    x = rng.normal(size=(num, sizes[0]))
    z = x
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        check_size(f"teacher with a layer from {fan_in} to {fan_out} units", 8 * fan_out * max(fan_in, num))
        z = (z if i == 0 else np.maximum(z, 0)) @ rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out))
    noisy = z + rng.normal(0, _noise(spec, 0.0), z.shape)
    if not classes:
        return x, noisy
    y = np.argmax(noisy - noisy.mean(axis=0), axis=1)
    if num_lost := classes - len(np.unique(y)):
        raise DataError(
            f"teacher: {num_lost} of {classes} classes have no example among {num}, one of each is expected: "
            "take wider data.teacher_hidden, fewer data.num_classes, more data.num_examples or another data.seed"
        )
    return x, y


def random_labels(spec: DataSpec, num: int, rng: np.random.Generator) -> Examples:
    """x ~ N(0, I), balanced labels independent of x: only memory can fit them (Zhang et al. 2017, 1611.03530)."""
    x = rng.normal(size=(num, spec.num_features or 20))
    return x, rng.permutation(np.arange(num) % (spec.num_classes or 10))


_PROBLEMS: dict[str, Callable[[DataSpec, int, np.random.Generator], Examples]] = {
    "xor": xor,
    "spirals": spirals,
    "moons": moons,
    "teacher": teacher,
    "random_labels": random_labels,
}


def _noise(spec: DataSpec, default: float) -> float:
    return default if spec.noise is None else spec.noise
