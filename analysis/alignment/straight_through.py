"""Straight-through estimator: perms that lower the loss half-way, found by gradient descent through the matching."""

from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, Shaped

from analysis.alignment.matching import Match, Pairs, match_weights, stack_elements
from wspace import objective, tree
from wspace.objective import LossKind
from wspace.symmetry import Symmetry, act, check
from wspace.tree import AnyArray, Params


def match_straight_through(
    symmetry: Symmetry,
    reference: Params,
    params: Params,
    *,
    model: Any,
    kind: LossKind,
    x: Float[AnyArray, "example *feature"],
    y: Shaped[AnyArray, "example ..."],
    rng: np.random.Generator,
    num_steps: int = 50,
    learning_rate: float = 1e-2,
    num_threads: int | None = None,
) -> Match:
    """Minimise L((theta_reference + g theta) / 2) over perms and signs.

    A free copy w of the reference is matched by g = argmax <w, g theta> (weight matching, begun where the last step
    ended); w then follows, by Adam, the gradient of L at the midpoint with respect to g theta, as if matching were the
    identity. The best g of all steps is kept; step 0 is weight matching, so the result is never worse than that. Bengio
    et al. 2013 (1308.3432); for matching Ainsworth et al. 2023 (2209.04836), section 3.3.

    Args:
        symmetry: of the model.
        reference: one network, or stacked ones, pair by pair.
        params: stacked, leaves (pair, ...).
        model: anything hashable with `apply(params, x)`.
        kind: the data loss L.
        x, y: examples, all used in every step.
        rng: order of the layers in matching.
        num_steps: of Adam.
        learning_rate: in units of each leaf's root mean square.
        num_threads: for the matching; default: all cores.

    Returns:
        A match whose objective is -L at the midpoint; converged is whether the best step was not among the last tenth.

    Raises:
        ValueError: the architectures differ, or a value is not finite.
        SymmetryError: the symmetry changes the model's function on x.
    """
    num = len(Pairs(symmetry, reference, params))
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf), params)
    check(model, symmetry, jax.tree.map(lambda leaf: leaf[0], stacked), x)
    lift = lambda a, b: np.broadcast_to(np.asarray(a), b.shape).astype(b.dtype)  # noqa: E731
    reference = jax.tree.map(lift, reference, stacked)
    optimizer = optax.adam(1.0)
    size = jax.tree.map(lambda leaf: learning_rate * _root_mean_square(leaf), reference)

    @jax.jit
    @jax.vmap
    def midpoint(a, moved):
        middle = lambda m: objective.objective(model, kind, tree.lerp(a, m, 0.5), x, y)  # noqa: E731
        return jax.value_and_grad(middle)(moved)

    @jax.jit
    def update(free, state, gradient):
        change, state = optimizer.update(gradient, state)
        return jax.tree.map(lambda w, c, s: w + s * c, free, change, size), state

    free, state = reference, optimizer.init(reference)
    element, losses, elements = None, [], []
    for _ in range(num_steps + 1):
        found = match_weights(symmetry, free, stacked, rng=rng, start=element, num_restarts=1, num_threads=num_threads)
        element = found.element
        with jax.default_matmul_precision("highest"):
            loss, gradient = midpoint(reference, act(symmetry, element, stacked))
        losses.append(np.asarray(loss, np.float64))
        elements.append(element)
        free, state = update(free, state, gradient)
    trace = -np.stack(losses, axis=1)
    best = trace.argmax(axis=1)
    return Match(
        element=stack_elements([elements[step][i] for i, step in enumerate(best)]),
        objective=trace[np.arange(num), best],
        restarts=trace[np.arange(num), best][:, None],
        sweeps=np.full(num, num_steps),
        converged=best < 0.9 * num_steps,
        history=tuple(np.maximum.accumulate(trace, axis=1)),
    )


def _root_mean_square(leaf: np.ndarray) -> np.ndarray:
    """Of each pair's leaf, with axes of length 1; 1 where it is 0."""
    size = np.sqrt(np.mean(np.square(leaf, dtype=np.float64), axis=tuple(range(1, leaf.ndim)), keepdims=True))
    return np.where(size > 0, size, 1.0).astype(leaf.dtype)
