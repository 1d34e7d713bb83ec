"""Are weights probabilities? Signs, ranges and sums say no; softmax outputs are, and calibration says how good ones."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from analysis.similarity.function import probabilities
from wspace.models import as_matrix
from wspace.tree import Params

NUM_BINS = 10
CLOSE = 0.05  # a sum this close to 1 counts as 1


@dataclasses.dataclass(frozen=True)
class WeightFacts:
    """What would have to hold of probabilities, for the weights of each layer of each network; biases are left out.

    Attributes:
        negative: share of the weights below 0, (seed, layer).
        outside: share of the weights outside of [0, 1].
        least, most: the smallest and the largest weight.
        rows_to_one: share of the senders whose weights add up to 1, up to CLOSE.
        columns_to_one: share of the units whose incoming weights do.
    """

    negative: Float[np.ndarray, "seed layer"]
    outside: Float[np.ndarray, "seed layer"]
    least: Float[np.ndarray, "seed layer"]
    most: Float[np.ndarray, "seed layer"]
    rows_to_one: Float[np.ndarray, "seed layer"]
    columns_to_one: Float[np.ndarray, "seed layer"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Whether a class that is given the probability p is right in p of the cases.

    Attributes:
        edges: of the bins of confidence, (bin + 1,).
        counts: examples in each bin, by the probability of the predicted class, (seed, bin).
        confidence: its mean in each bin; NaN where there is none.
        accuracy: share of right predictions in each bin; NaN where there is none.
        error: sum over bins of share x |accuracy - confidence| (expected calibration error), (seed,).
        chance: the same, on average, for labels that are drawn from the network's own probabilities: what a perfectly
            calibrated network shows with as many examples, (seed,).
        overconfidence: mean confidence less accuracy, (seed,).
    """

    edges: Float[np.ndarray, "edge"]
    counts: Int[np.ndarray, "seed bin"]
    confidence: Float[np.ndarray, "seed bin"]
    accuracy: Float[np.ndarray, "seed bin"]
    error: Float[np.ndarray, "seed"]
    chance: Float[np.ndarray, "seed"]
    overconfidence: Float[np.ndarray, "seed"]


def weight_facts(params: Params) -> WeightFacts:
    """Signs, ranges and sums of the weights of every layer.

    Args:
        params: stacked, a tuple of layers with a `weight` (seed, ..., sender, unit); each place of a kernel is a sender of
            its own.

    Raises:
        ValueError: a weight is not finite.
    """
    columns = []
    for number, layer in enumerate(params):
        weights = np.stack([as_matrix(np.asarray(weight, np.float64)) for weight in layer["weight"]])
        if not np.all(np.isfinite(weights)):
            raise ValueError(f"weights of layer {number} are not finite: leave out networks that diverged")
        mean = lambda values: values.reshape(len(values), -1).mean(axis=1)  # noqa: E731
        columns.append(
            (
                mean(weights < 0),
                mean((weights < 0) | (weights > 1)),
                weights.min(axis=(1, 2)),
                weights.max(axis=(1, 2)),
                mean(np.abs(weights.sum(axis=2) - 1) <= CLOSE),
                mean(np.abs(weights.sum(axis=1) - 1) <= CLOSE),
            )
        )
    return WeightFacts(*(np.stack(values, axis=1) for values in zip(*columns, strict=True)))


def calibration(
    outputs: Float[np.ndarray, "seed example output"], y: Int[np.ndarray, "example"], *, rng: np.random.Generator,
    num_bins: int = NUM_BINS, num_draws: int = 100,
) -> Calibration:  # fmt: skip
    """Reliability of softmax outputs, by the probability of the predicted class, in bins of equal width.

    Guo et al. 2017 (1706.04599); the reference by simulation follows Broecker & Smith 2007 (10.1175/WAF993.1).

    Args:
        outputs: logits on examples that were not trained on.
        y: labels.
        rng: source of the labels of `chance`.
        num_bins: of confidence, from 0 to 1; at least 1.
        num_draws: of all labels, for `chance`; at least 1.

    Raises:
        ValueError: there are no examples, bins or draws, labels are not one of 0 .. outputs - 1 for each example, or outputs
            are not finite.
    """
    if num_bins < 1 or num_draws < 1:
        raise ValueError(f"num_bins = {num_bins}, num_draws = {num_draws}: at least 1 of each is expected")
    if outputs.ndim != 3 or y.shape != outputs.shape[1:2] or len(y) == 0 or not np.all(np.isfinite(outputs)):
        raise ValueError(
            f"outputs {outputs.shape} and labels {y.shape}: finite ones of at least one example are expected"
        )
    if not 0 <= y.min() <= y.max() < outputs.shape[-1]:
        raise ValueError(
            f"labels {y.min()} .. {y.max()} for {outputs.shape[-1]} outputs: 0 .. {outputs.shape[-1] - 1} are expected"
        )
    p = probabilities(outputs)
    predicted, confidence = p.argmax(axis=-1), p.max(axis=-1)
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    at = bins + num_bins * np.arange(len(p))[:, None]
    total = lambda values: np.bincount(at.ravel(), values.ravel(), len(p) * num_bins).reshape(len(p), num_bins)  # noqa: E731
    counts, sums = total(np.ones_like(confidence)), total(confidence)
    gap = lambda right: np.abs(total(right) - sums).sum(axis=1) / len(y)  # noqa: E731
    right = (predicted == y).astype(np.float64)
    # drawn from its own probabilities, the predicted label is right with probability `confidence`
    chance = np.mean(
        [gap((rng.random(confidence.shape) < confidence).astype(np.float64)) for _ in range(num_draws)], axis=0
    )
    share = lambda values: np.divide(values, counts, out=np.full(counts.shape, np.nan), where=counts > 0)  # noqa: E731
    return Calibration(
        edges,
        counts.astype(int),
        share(sums),
        share(total(right)),
        gap(right),
        chance,
        (confidence - right).mean(axis=1),
    )
