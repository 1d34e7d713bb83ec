"""How alike the functions of restarts are: what they predict on the same examples."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wspace import objective
from wspace.models import Model, Network
from wspace.tree import AnyArray, Params

CHUNK_VALUES = 2**23  # float64 values of pairs compared at once: 64 MB
TOGETHER = 64  # networks computed at once
BELOW_ONE = np.nextafter(1, 0)  # 0 ln 0 = 0


@dataclasses.dataclass(frozen=True)
class FunctionDistances:
    """Distances between the functions of a population on one set of examples. Symmetric, 0 on the diagonal, float64.

    Attributes:
        task: classification or regression.
        distance: share of examples on which two networks predict different classes; of regressions the root mean squared
            difference of their outputs.
        normalised: the same divided by how wrong the networks are, the mean of both orders: d_ij (1 / e_i + 1 / e_j) / 2.
        independent: the distance of two networks that err as often as these do, but independently of each other.
        divergence: mean Jensen-Shannon divergence of the predicted probabilities in nats, at most ln 2; of regressions None.
        error: e_i, share of examples that each gets wrong; of regressions the root mean squared error.
        floored: networks without an error, for which e_i is taken as one example of all; a regression has no such
            smallest error, and their normalised distances are NaN.
        num_examples: that were compared.
    """

    task: Literal["classification", "regression"]
    distance: Float[np.ndarray, "seed seed"]
    normalised: Float[np.ndarray, "seed seed"]
    independent: Float[np.ndarray, "seed seed"]
    divergence: Float[np.ndarray, "seed seed"] | None
    error: Float[np.ndarray, "seed"]
    floored: Bool[np.ndarray, "seed"]
    num_examples: int


def function_distances(
    model: Model, params: Params, x: Float[AnyArray, "example *feature"], y: AnyArray,
    task: Literal["classification", "regression"],
) -> FunctionDistances:  # fmt: skip
    """All pairwise distances between the functions of stacked networks on examples.

    Args:
        model: with `apply(params, x)`.
        params: stacked, leaves (seed, ...).
        x, y: examples: classes (example,) or targets (example, output).
        task: what y asks for.

    Raises:
        ValueError: there are no examples, y does not fit the examples or outputs, or outputs are not finite.

    Source: normalised disagreement: Fort, Hu & Lakshminarayanan 2019, 1912.02757, there d_ij / e_j.
    """
    if len(x) == 0:
        raise ValueError("there are no examples to compare functions on")
    found, y = outputs(model, params, x), np.asarray(y)
    if not np.all(np.isfinite(found)):
        bad = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2)))
        raise ValueError(f"outputs of the networks at positions {bad.tolist()} are not finite")
    expected = (len(x),) if task == "classification" else found.shape[1:]
    if (y.shape if task == "classification" else y.reshape(len(y), -1).shape) != expected:
        raise ValueError(f"y has shape {y.shape}: a {task} on these examples takes {expected}")
    if task == "classification":
        labels = np.argmax(found, axis=-1)
        distance, error = disagreement(labels), np.mean(labels != y, axis=1)
        independent, divergence = independent_disagreement(labels, y), js_divergence(probabilities(found))
        floored, effective = error == 0, np.maximum(error, 1 / len(y))
    else:
        wide = found.astype(np.float64)
        errors = wide - y.reshape(len(y), -1)
        distance, error = rms_distance(wide), np.sqrt(np.mean(np.square(errors), axis=(1, 2)))
        independent, divergence = np.sqrt(_independent_square(errors)), None
        floored, effective = error == 0, np.where(error == 0, np.nan, error)
    normalised = distance * np.add.outer(1 / effective, 1 / effective) / 2
    np.fill_diagonal(normalised, 0)
    return FunctionDistances(
        task, distance, normalised, independent, divergence, error.astype(np.float64), floored, len(y)
    )


def outputs(
    model: Model, params: Params, x: Float[AnyArray, "example *feature"], *, chunk: int | None = None
) -> Float[np.ndarray, "seed example output"]:
    """Logits or predictions of stacked networks, float32, a chunk of examples and a few networks at a time.

    Args:
        model: with `apply(params, x)`.
        params: stacked, leaves (seed, ...).
        x: inputs.
        chunk: examples at a time; default: what `objective.chunk_examples` says.
    """
    return _in_chunks(model, "apply", params, x, chunk)[0]


def representations(
    model: Network, params: Params, x: Float[AnyArray, "example *feature"], *, chunk: int | None = None
) -> tuple[Float[np.ndarray, "seed example *_"], ...]:
    """What every layer of stacked networks hands on, outputs last, float32; arguments as in `outputs`."""
    return _in_chunks(model, "activations", params, x, chunk)


def probabilities(outputs: Float[np.ndarray, "*batch output"]) -> Float[np.ndarray, "*batch output"]:
    """softmax(outputs), float64."""
    wide = outputs.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def disagreement(labels: Int[np.ndarray, "seed example"]) -> Float[np.ndarray, "seed seed"]:
    """Share of examples on which two networks predict different classes: exact, by one matrix product for each class."""
    same = np.zeros((len(labels), len(labels)))
    for label in np.unique(labels):
        hits = (labels == label).astype(np.float64)
        same += hits @ hits.T
    return 1 - same / labels.shape[1]


def independent_disagreement(
    labels: Int[np.ndarray, "seed example"], y: Int[np.ndarray, "example"]
) -> Float[np.ndarray, "seed seed"]:
    """Disagreement of networks that confuse classes as often as these, but independently of each other.

    1 - sum_c p(c) sum_k p_i(k|c) p_j(k|c), with p(c) the share of class c and p_i(k|c) how often network i answers k to it.
    Two restarts disagree less where the same examples are hard for both. 0 on the diagonal.
    """
    agree = np.zeros((len(labels), len(labels)))
    classes = np.union1d(labels, y)
    for c in np.unique(y):
        of = labels[:, y == c]
        answers = np.array([np.mean(of == k, axis=1) for k in classes])
        agree += np.mean(y == c) * answers.T @ answers
    result = (1 - agree).clip(0)
    np.fill_diagonal(result, 0)
    return result


def js_divergence(probabilities: Float[np.ndarray, "seed example output"]) -> Float[np.ndarray, "seed seed"]:
    """Mean over examples of the Jensen-Shannon divergence in nats: H((p + q) / 2) - (H(p) + H(q)) / 2, in [0, ln 2].

    Computed as the sum over outputs of m ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2 where m = (p + q) / 2 and
    t = |p - q| / (p + q): exactly 0 for equal networks, and the small divergence of similar ones is not lost among their
    entropies. Its square root is a metric.

    Source: Lin 1991, 10.1109/18.61115; Endres & Schindelin 2003, 10.1109/TIT.2003.813506.
    """
    num = len(probabilities)
    upper = np.zeros((num, num))
    size = max(1, CHUNK_VALUES // probabilities[0].size)
    for i in range(num):
        for low in range(i + 1, num, size):
            rest = slice(low, min(low + size, num))
            total = np.asarray(probabilities[i] + probabilities[rest], np.float64)
            share = np.divide(
                abs(probabilities[i] - probabilities[rest]), total, out=np.zeros_like(total), where=total > 0
            )
            terms = (1 + share) * np.log1p(share)
            terms += (1 - share) * np.log1p(-np.minimum(share, BELOW_ONE))
            upper[i, rest] = np.mean(np.sum(total * terms, axis=-1), axis=-1) / 4
    upper = upper.clip(0, np.log(2))
    return upper + upper.T


def rms_distance(outputs: Float[np.ndarray, "seed example output"]) -> Float[np.ndarray, "seed seed"]:
    """Root mean squared difference between the outputs of two networks; exactly 0 between equal ones."""
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    size = max(1, CHUNK_VALUES // flat.shape[1])
    result = np.zeros((len(flat), len(flat)))
    for i in range(len(flat)):
        for low in range(0, len(flat), size):
            result[i, low : low + size] = np.mean(np.square(flat[low : low + size] - flat[i]), axis=1)
    return np.sqrt(result)


def _independent_square(errors: np.ndarray) -> np.ndarray:
    """E (e_i - e_j)^2 for independent errors of the same means and variances, averaged over outputs; 0 on the diagonal."""
    mean, square = errors.mean(axis=1), np.mean(np.square(errors), axis=1)
    total = np.add.outer(square.mean(axis=1), square.mean(axis=1)) - 2 * mean @ mean.T / mean.shape[1]
    np.fill_diagonal(total, 0)
    return total.clip(0)


def _in_chunks(model: Any, name: str, params: Params, x: AnyArray, chunk: int | None) -> tuple[np.ndarray, ...]:
    params, x = jax.tree.map(np.asarray, params), np.asarray(x)
    num = jax.tree.leaves(params)[0].shape[0]
    width = min(num, TOGETHER)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    size = min(len(x), chunk or objective.chunk_examples(model, first, np.shape(x), width))
    program = _program(model, name)
    blocks = []
    for low in range(0, num, width):
        rows = np.arange(low, low + width).clip(max=num - 1)  # the last network again: one compiled program
        some = jax.tree.map(lambda leaf, at=rows: jnp.asarray(leaf[at], jnp.float32), params)
        parts = []
        for start in range(0, len(x), size):
            at = np.arange(start, start + size).clip(max=len(x) - 1)
            with jax.default_matmul_precision("highest"):
                found = program(some, jnp.asarray(x[at]))
            parts.append([np.asarray(layer, np.float32)[: num - low, : len(x) - start] for layer in found])
        blocks.append([np.concatenate(layer, axis=1) for layer in zip(*parts, strict=True)])
    return tuple(np.concatenate(layer) for layer in zip(*blocks, strict=True))


@objective.cache_compiled
def _program(model: Any, name: str) -> Callable:
    function = model.activations if name == "activations" else lambda params, x: (model.apply(params, x),)
    return jax.jit(jax.vmap(function, in_axes=(0, None)))
