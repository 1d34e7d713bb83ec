"""Frank-Wolfe matching: all layers at once, through the inside of the polytope of doubly stochastic matrices."""

import numpy as np

from analysis.alignment.ascent import Climb, Labels, Similarities, climb, contract
from analysis.alignment.assignment import assign
from analysis.alignment.matching import Match, Pairs, collect, random_labels, spawn
from analysis.threads import in_threads
from wspace.symmetry import Symmetry
from wspace.tree import Params


def match_frank_wolfe(
    symmetry: Symmetry,
    reference: Params,
    params: Params,
    *,
    rng: np.random.Generator,
    num_restarts: int = 2,
    max_iterations: int = 300,
    tolerance: float = 1e-7,
    num_threads: int | None = None,
) -> Match:
    """Maximise <theta_reference, M theta> over doubly stochastic M_l, then round to perms and climb from there.

    f(M) is bilinear in neighbouring layers. Each iteration moves all layers towards the vertex D that maximises the
    linear part, D_l = the assignment of df/dM_l (its absolute value, with signs, where signs are free), by the exact
    maximum of f on the segment, a quadratic. It stops when the gap <df/dM, D - M>, which bounds what linearisation can
    still gain, is below `tolerance` |f|. The rounded labels are the start of `match_weights`' ascent, so that the result is
    a local maximum of the same objective. Frank & Wolfe 1956; for networks Crisostomi et al. 2024 (2405.17897).

    Args:
        symmetry: its layers may share leaves two by two, not in threes and not with themselves.
        reference: one network, or stacked ones, pair by pair.
        params: stacked, leaves (pair, ...).
        rng: source of the restarts.
        num_restarts: the first begins at the barycentre, all entries 1/n; others halfway from there to random labels.
        max_iterations: of one restart.
        tolerance: of the gap, relative.
        num_threads: default: all cores.

    Returns:
        A match whose `history` holds f after every iteration and, last, the value of the labels.

    Raises:
        ValueError: the architectures differ, a value is not finite, or a leaf is shared by more than two layers.
    """
    if num_restarts < 1:
        raise ValueError(f"num_restarts = {num_restarts}: at least 1 is expected")
    pairs = Pairs(symmetry, reference, params)
    rngs = spawn(rng, len(pairs))

    def one(index: int) -> list[Climb]:
        similarities = Similarities(symmetry, *pairs[index])
        if not similarities.bilinear:
            raise ValueError("Frank-Wolfe needs leaves with at most two axes of units, of different layers")
        starts = [_start(symmetry, None if r == 0 else rngs[index]) for r in range(num_restarts)]
        return [_frank_wolfe(similarities, start, rngs[index], max_iterations, tolerance) for start in starts]

    return collect(in_threads(one, range(len(pairs)), num_threads))


def _start(symmetry: Symmetry, rng: np.random.Generator | None) -> list[np.ndarray]:
    """The barycentre (0 where signs are free, since -M is as good as M), or halfway from there to random labels."""
    centre = [np.zeros((u.num, u.num)) if u.sign else np.full((u.num, u.num), 1 / u.num) for u in symmetry.layers]
    if rng is None:
        return centre
    return [(c + _matrix(labels)) / 2 for c, labels in zip(centre, random_labels(symmetry, rng), strict=True)]


def _frank_wolfe(
    similarities: Similarities, soft: list[np.ndarray], rng: np.random.Generator, max_iterations: int, tolerance: float
) -> Climb:
    layers = similarities.symmetry.layers
    history, stopped = [], False
    value, gradient = _value_and_gradient(similarities, soft)
    for _ in range(max_iterations):
        vertex = [Labels(*assign(g, signed=u.sign)[:2]) for g, u in zip(gradient, layers, strict=True)]
        # without a gradient (at 0, between layers at 0) every vertex is as good: wait for the neighbours' labels
        toward = [_matrix(x) if g.any() else m for x, g, m in zip(vertex, gradient, soft, strict=True)]
        gap = sum(float(np.vdot(g, d - m)) for g, d, m in zip(gradient, toward, soft, strict=True))
        if gap <= tolerance * max(abs(value), np.finfo(float).tiny):
            stopped = True
            break
        # on the segment f = value + gap t + bend t^2, and f at t = 1 is the vertex's
        bend = _value_and_gradient(similarities, toward)[0] - value - gap
        step = min(1.0, -gap / (2 * bend)) if bend < 0 else 1.0
        soft = [m + step * (d - m) for m, d in zip(soft, toward, strict=True)]
        value, gradient = _value_and_gradient(similarities, soft)
        history.append(value)
    rounded = [Labels(*assign(m, signed=u.sign)[:2]) for m, u in zip(soft, layers, strict=True)]
    end = climb(similarities, rounded, rng)
    return Climb(end.labels, end.objective, np.array([*history, end.objective]), stopped and end.converged)


def _value_and_gradient(similarities: Similarities, soft: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """f(M), without the leaves that no unit touches, and df/dM_l; a shared leaf is met once from either side."""
    value, gradient = 0.0, []
    for layer, matrix in enumerate(soft):
        total, shared = similarities.constant[layer], np.zeros_like(matrix)
        for coupling in similarities.couplings[layer]:
            shared += contract(coupling.a, np.tensordot(soft[coupling.other], coupling.b, axes=1))
        value += float(np.vdot(total, matrix) + np.vdot(shared, matrix) / 2)
        gradient.append(total + shared)
    return value, gradient


def _matrix(labels: Labels) -> np.ndarray:
    matrix = np.zeros((len(labels.perm),) * 2)
    matrix[np.arange(len(labels.perm)), labels.perm] = labels.signs
    return matrix
