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


@dataclasses.dataclass(frozen=True)
class FunctionDistances:
    """Distances between the functions of a population on one set of examples. Symmetric, 0 on the diagonal, float64.

    Attributes:
        task: classification or regression.
        distance: share of examples on which two networks predict different classes; of regressions the root mean squared
            difference of their outputs.
        normalised: the same divided by how wrong the networks are: d_ij (1 / e_i + 1 / e_j) / 2.
        independent: the distance of two networks that err as often as these do, but independently of each other.
        divergence: mean Jensen-Shannon divergence of the predicted probabilities in nats, at most ln 2; of regressions None.
        error: e_i, share of examples that each gets wrong; of regressions the root mean squared error.
        floored: networks without an error, for which e_i is taken as one example of all (regressions: the smallest number).
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
        ValueError: there are no examples, or outputs are not finite.

    Source: normalised disagreement: Fort, Hu & Lakshminarayanan 2019, 1912.02757, there d_ij / e_j.
    """
    if len(x) == 0:
        raise ValueError("there are no examples to compare functions on")
    found, y = outputs(model, params, x), np.asarray(y)
    if not np.all(np.isfinite(found)):
        bad = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2)))
        raise ValueError(f"outputs of the networks at positions {bad.tolist()} are not finite")
    if task == "classification":
        labels = np.argmax(found, axis=-1)
        distance, error = disagreement(labels), np.mean(labels != y, axis=1)
        independent, divergence = independent_disagreement(labels, y), js_divergence(probabilities(found))
        floor = 1 / len(y)
    else:
        wide = found.astype(np.float64)
        errors = wide - y.reshape(len(y), -1)
        distance, error = rms_distance(wide), np.sqrt(np.mean(np.square(errors), axis=(1, 2)))
        independent, divergence = np.sqrt(_independent_square(errors)), None
        floor = float(np.finfo(float).tiny)
    effective = np.maximum(error, floor)
    normalised = distance * np.add.outer(1 / effective, 1 / effective) / 2
    return FunctionDistances(
        task, distance, normalised, independent, divergence, error.astype(np.float64), error < floor, len(y)
    )


def outputs(
    model: Model, params: Params, x: Float[AnyArray, "example *feature"], chunk: int | None = None
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
    model: Network, params: Params, x: Float[AnyArray, "example *feature"], chunk: int | None = None
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
    result = 1 - agree
    np.fill_diagonal(result, 0)
    return result


def js_divergence(probabilities: Float[np.ndarray, "seed example output"]) -> Float[np.ndarray, "seed seed"]:
    """Mean over examples of the Jensen-Shannon divergence in nats: H((p + q) / 2) - (H(p) + H(q)) / 2, in [0, ln 2].

    Its square root is a metric.

    Source: Lin 1991, 10.1109/18.61115; Endres & Schindelin 2003, 10.1109/TIT.2003.813506.
    """
    num = len(probabilities)
    own = _entropy(probabilities).mean(axis=1)
    mixed = np.zeros((num, num))
    size = max(1, CHUNK_VALUES // probabilities[0].size)
    for i in range(num):
        for low in range(i + 1, num, size):
            rest = slice(low, min(low + size, num))
            mixed[i, rest] = _entropy((probabilities[i] + probabilities[rest]) / 2).mean(axis=1)
    upper = np.triu(mixed - np.add.outer(own, own) / 2, 1).clip(0)
    return upper + upper.T


def rms_distance(outputs: Float[np.ndarray, "seed example output"]) -> Float[np.ndarray, "seed seed"]:
    """Root mean squared difference between the outputs of two networks; exactly 0 between equal ones."""
    flat = outputs.reshape(len(outputs), -1)
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


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)


def _in_chunks(model: Any, name: str, params: Params, x: AnyArray, chunk: int | None) -> tuple[np.ndarray, ...]:
    num = jax.tree.leaves(params)[0].shape[0]
    width = min(num, TOGETHER)
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params)
    size = min(len(x), chunk or objective.chunk_examples(model, first, np.shape(x), width))
    program = _program(model, name)
    blocks = []
    for low in range(0, num, width):
        rows = np.arange(low, low + width).clip(max=num - 1)  # the last network again: one compiled program
        some = jax.tree.map(lambda leaf, at=rows: jnp.asarray(np.asarray(leaf)[at], jnp.float32), params)
        parts = []
        for start in range(0, len(x), size):
            at = np.arange(start, start + size).clip(max=len(x) - 1)
            found = program(some, jnp.asarray(np.asarray(x)[at]))
            parts.append([np.asarray(layer)[: num - low, : len(x) - start] for layer in found])
        blocks.append([np.concatenate(layer, axis=1) for layer in zip(*parts, strict=True)])
    return tuple(np.concatenate(layer) for layer in zip(*blocks, strict=True))


@objective.cache_compiled
def _program(model: Any, name: str) -> Callable:
    function = model.activations if name == "activations" else lambda params, x: (model.apply(params, x),)
    return jax.jit(jax.vmap(function, in_axes=(0, None)))
