"""Populations: one element per network, so that all of them are labelled alike."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from analysis.alignment.ascent import Direction, Labels, Similarities, as_element, as_labels, climb
from analysis.alignment.matching import Match, Pairs, match_weights, stack_elements
from analysis.threads import in_threads
from wspace.symmetry import Element, Symmetry, act, identity
from wspace.tree import Params, pick

Matcher = Callable[[Symmetry, Params, Params], Match]
MAX_ROUNDS = 50
GAIN = 1e-12  # relative
CHUNK_VALUES = 8_000_000  # float64 values converted at once


@dataclasses.dataclass(frozen=True)
class Alignment:
    """A population in one labelling.

    Attributes:
        element: stacked over seeds; act with it on the population, at any checkpoint, to align it.
        reference: position of the seed whose labels all others take, and which the element leaves alone; None if there is
            none.
        objective: sum over pairs i < j of <g_i theta_i, g_j theta_j>: large where the aligned networks are close.
        history: the objective after every round.
        converged: whether the last round changed nothing.
        match: of every seed to the reference (the reference itself included); None for the mean and the universe.
    """

    element: Element
    reference: int | None
    objective: float
    history: Float[np.ndarray, "round"]
    converged: bool
    match: Match | None = None


def align_to_reference(symmetry: Symmetry, params: Params, reference: int, *, matcher: Matcher) -> Alignment:
    """Match every network of a population to one of them.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...), at least two.
        reference: position of a seed.
        matcher: (symmetry, reference, params) -> Match, e.g. functools.partial(match_weights, rng=rng).

    Raises:
        ValueError: there are fewer than two networks, no such seed, or the matcher refuses them.
    """
    num = population_size(params)
    if not -num <= reference < num:
        raise ValueError(f"reference = {reference} is no position among {num} networks")
    reference %= num
    match = matcher(symmetry, pick(params, reference), params)
    match = dataclasses.replace(match, element=jax.tree.map(np.array, match.element))  # a copy, to write to
    for ours, none in zip(sum(match.element, ()), sum(identity(symmetry), ()), strict=True):
        ours[reference] = none  # nothing is closer to it than itself
    total = objective(act(symmetry, match.element, params))
    return Alignment(match.element, reference, total, np.array([total]), bool(match.converged.all()), match)


def align_to_medoid(symmetry: Symmetry, params: Params, *, matcher: Matcher, max_rounds: int = 4) -> Alignment:
    """Match every network to the one that is most like all others, in cosine, once they are aligned.

    Begins with the one that is so before alignment; the medoid of the aligned population is the next one, until it is
    its own medoid, the objective no longer grows, or for `max_rounds`. The best round is returned.
    """
    population_size(params)
    reference, best, history, settled = _central(gram(params)), None, [], False
    for _ in range(max_rounds):
        found = align_to_reference(symmetry, params, reference, matcher=matcher)
        history.append(max([found.objective, *history]))
        if settled := best is not None and found.objective < best.objective - GAIN * abs(best.objective):
            break
        best, medoid = found, _central(gram(act(symmetry, found.element, params)))
        if settled := medoid == reference:
            break
        reference = medoid
    assert best is not None
    return dataclasses.replace(best, history=np.array(history), converged=best.converged and settled)


def align_to_mean(symmetry: Symmetry, params: Params, *, matcher: Matcher, start: Alignment | None = None) -> Alignment:
    """Match every network to the mean of the aligned population, compute the mean anew, and so on.

    Each round whose objective grows is kept; the first that does not is thrown away and ends it.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...), at least two.
        matcher: see `align_to_reference`; it must maximise <reference, g theta> for the objective to grow.
        start: default: aligned to the medoid.
    """
    population_size(params)
    best = start or align_to_medoid(symmetry, params, matcher=matcher)
    history, converged = [best.objective], False
    for _ in range(MAX_ROUNDS):
        aligned = act(symmetry, best.element, params)
        mean = jax.tree.map(lambda leaf: np.mean(np.asarray(leaf), axis=0, dtype=np.float64), aligned)
        element = matcher(symmetry, mean, params).element
        total = objective(act(symmetry, element, params))
        if total <= best.objective + GAIN * abs(best.objective):
            converged = True
            break
        best = Alignment(element, None, total, np.array([]), False)
        history.append(total)
    return Alignment(best.element, None, best.objective, np.array(history), converged)


def align_universe(
    symmetry: Symmetry,
    params: Params,
    *,
    rng: np.random.Generator,
    start: Alignment | None = None,
    num_threads: int | None = None,
) -> Alignment:
    """One labelling for all, by its own criterion: maximise the sum over all pairs of <g_i theta_i, g_j theta_j>.

    The relative element of two networks is g_i^-1 g_j, so that every cycle closes by construction. Network after network
    is matched to the sum of all others, from where it is and afresh from its inputs, the better of both; each step solves
    its part of the criterion, which therefore never decreases. The criterion is that of C2M3 (Crisostomi et al. 2024,
    2405.17897), who maximise it by Frank-Wolfe.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...), at least two.
        rng: order of the networks and layers.
        start: default: aligned to the medoid by weight matching.
        num_threads: default: all cores; they work on the networks' two ascents.
    """
    num = population_size(params)
    if start is None:
        matcher = functools.partial(match_weights, rng=rng, num_restarts=2, num_threads=num_threads)
        start = align_to_medoid(symmetry, params, matcher=matcher)
    labels = [as_labels(start.element[i]) for i in range(num)]
    moved = lambda i: act(symmetry, as_element(labels[i]), _wide(pick(params, i)))  # noqa: E731
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:]), params)
    for i in range(num):
        total = jax.tree.map(np.add, total, moved(i))
    history, converged = [objective(act(symmetry, start.element, params))], False
    for _ in range(MAX_ROUNDS):
        gain = 0.0
        for i in rng.permutation(num).tolist():
            rest = jax.tree.map(np.subtract, total, moved(i))
            a, b = Pairs(symmetry, rest, jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i : i + 1], params))[0]
            starts: tuple[list[Labels] | Direction, ...] = (labels[i], "inputs")

            def ascend(begin, a=a, b=b, now=labels[i]):
                similarities = Similarities(symmetry, a, b)
                return similarities.value(now), climb(similarities, begin, np.random.default_rng(0))

            (before, stayed), (_, afresh) = in_threads(ascend, starts, num_threads)
            found = max(stayed, afresh, key=lambda c: c.objective)
            if found.objective > before + GAIN * abs(before):
                labels[i], gain = found.labels, gain + found.objective - before
            total = jax.tree.map(np.add, rest, moved(i))
        history.append(history[-1] + gain)
        if gain == 0:
            converged = True
            break
    element = stack_elements([as_element(x) for x in labels])
    return Alignment(element, None, objective(act(symmetry, element, params)), np.array(history), converged)


def gram(params: Params) -> Float[np.ndarray, "seed seed"]:
    """<theta_i, theta_j>, in float64."""
    num = jax.tree.leaves(params)[0].shape[0]
    total, size = np.zeros((num, num)), max(1, CHUNK_VALUES // num)
    for leaf in jax.tree.leaves(params):
        flat = np.asarray(leaf).reshape(num, -1)
        for low in range(0, flat.shape[1], size):
            part = flat[:, low : low + size].astype(np.float64)
            total += part @ part.T
    return total


def cosines(
    inner: Float[np.ndarray, "seed seed"], squares: Float[np.ndarray, "seed"]
) -> Float[np.ndarray, "seed seed"]:
    """inner_ij / (|theta_i| |theta_j|) from inner products and squared norms; 0 where a norm is 0."""
    norms = np.sqrt(np.outer(squares, squares))
    return np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0)


def objective(params: Params) -> float:
    """Sum over pairs i < j of <theta_i, theta_j>, in float64."""
    inner = gram(params)
    return float(inner.sum() - np.trace(inner)) / 2


def population_size(params: Params) -> int:
    """Number of stacked networks, at least two.

    Raises:
        ValueError: there are fewer.
    """
    num = jax.tree.leaves(params)[0].shape[0]
    if num < 2:
        raise ValueError(f"aligning a population takes at least two networks, got {num}")
    return num


def _wide(params: Params) -> Params:
    return jax.tree.map(np.float64, params)


def _central(inner: np.ndarray) -> int:
    """The network with the largest sum of cosines to the others: lengths do not count, nor does one that is 0."""
    return int(np.argmax(cosines(inner, np.diag(inner)).sum(axis=1)))
