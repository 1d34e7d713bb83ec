"""How far apart the classes are in each layer, against how far each of them spreads."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from analysis.threads import in_threads


@dataclasses.dataclass(frozen=True)
class ClassDistances:
    """Classes of examples in every layer of every network. Shift, rotation and scale of all features change nothing.

    Attributes:
        share: share of variance between classes, in [0, 1]; NaN where features do not vary.
        null: mean of `share` over all ways to shuffle the labels, (K - 1) / (N - 1) for K classes of N examples.
        apart: distance between the means of two classes, in standard deviations of these classes along the line between
            them; infinite where both are flat along it, 0 between equal means and on the diagonal. Chance alone moves means
            apart, the farther the fewer the examples are beside the units, so read it beside untrained networks.
        classes: labels, ascending, in the order of `apart`.
        num_examples: of all classes.
    """

    share: Float[np.ndarray, "layer seed"]
    null: float
    apart: Float[np.ndarray, "layer seed label label"]
    classes: Int[np.ndarray, "label"]
    num_examples: int


def class_distances(layers: Sequence[Float[np.ndarray, "seed _ _"]], y: Int[np.ndarray, "_"]) -> ClassDistances:
    """Spread between and within classes of every layer and network, in float64.

    With m the mean of all N examples, m_c that of the N_c of class c,

        between = sum_c N_c |m_c - m|^2,   within = sum_i |x_i - m_{y_i}|^2,   share = between / (between + within),

    the ratio of the traces of the between-class and the total scatter. For two classes, with u the unit vector from one mean
    to the other and s^2 = sum over their examples of (u . (x_i - m_{y_i}))^2 / (N_c + N_d - 2),

        apart_cd = |m_c - m_d| / s.

    Args:
        layers: features on the same examples, as `features` has them.
        y: labels of the examples.

    Raises:
        ValueError: layers and labels differ in examples, features are not finite, there are fewer than two classes, or a
            class has fewer than two examples.

    Source: Fukunaga 1990, Introduction to Statistical Pattern Recognition, section 10.2; in layers of networks: Papyan, Han
    & Donoho 2020, 2008.08186.
    """
    shapes = [layer.shape for layer in layers]
    if not layers or {(shape[0], shape[1]) for shape in shapes} != {(shapes[0][0], len(y))}:
        raise ValueError(
            f"layers have shapes {shapes}: (seed, example, unit) with equal seeds and {len(y)} examples are expected, of at "
            "least one layer"
        )
    if bad := [number for number, layer in enumerate(layers) if not np.all(np.isfinite(layer))]:
        raise ValueError(f"features of the layers {bad} are not finite")
    classes, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise ValueError(
            f"labels {classes.tolist()} have {counts.tolist()} examples: at least two classes, of at least two examples "
            "each, are expected"
        )
    jobs = [x for layer in layers for x in layer]
    found = in_threads(lambda x: _one(x, place, counts), jobs)
    lead = (len(layers), len(layers[0]))
    return ClassDistances(
        share=np.reshape([share for share, _ in found], lead),
        null=(len(classes) - 1) / (len(y) - 1),
        apart=np.reshape([apart for _, apart in found], (*lead, len(classes), len(classes))),
        classes=classes,
        num_examples=len(y),
    )


def _one(x: np.ndarray, place: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    num, x = len(counts), x.astype(np.float64)
    apart = np.zeros((num, num))
    if np.all(x == x[0]):
        return np.nan, apart
    x -= x.mean(axis=0)  # first, lest means that are large beside the spread round it away
    means = np.array([x[place == c].mean(axis=0) for c in range(num)])
    around = x - means[place]
    between, within = counts @ np.sum(means**2, axis=1), np.sum(around**2)
    of = [around[place == c] for c in range(num)]
    for c, d in itertools.combinations(range(num), 2):
        line = means[c] - means[d]
        length = np.linalg.norm(line)
        if length > 0:
            squares = sum(np.sum((some @ (line / length)) ** 2) for some in (of[c], of[d]))
            spread = np.sqrt(squares / (counts[c] + counts[d] - 2))
            apart[c, d] = apart[d, c] = length / spread if spread > 0 else np.inf
    return float(between / (between + within)), apart
