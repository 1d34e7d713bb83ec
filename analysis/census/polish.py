"""Endpoints polished to stationarity in float64: L-BFGS for all, then Newton where the Hessian fits."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from analysis.curvature.objective import Flat, Objective, Population, Tell, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.tree import Layout, Params

NEWTON = 512  # params up to which Newton follows
MEMORY, LINE_STEPS = 20, 30  # of L-BFGS
STALLED = 5  # steps in a row that do not lower the objective and end L-BFGS
FLAT = 1e-12  # of the largest |eigenvalue|: rounding, along which Newton does not move
SHORT = 1e-8  # of max(1, |theta|): Newton goes on until its step is no longer
PATIENCE, SPENT = 30, 6  # rejected steps in a row that end it, before and after the gradient is small
ROUNDING = 8 * np.finfo(float).eps  # relative: changes of the objective below it say nothing


@dataclasses.dataclass(frozen=True)
class Polished:
    """Where training ended and where polishing led, for each network.

    Attributes:
        objective: what was minimised, in words.
        params: the polished networks, leaves (network, ...), float64.
        before, after: the objective, (network,).
        gradient_before, gradient_after: length of its gradient, (network,).
        moved: distance from where training ended, (network,).
        steps: of L-BFGS, (network,).
        newton_steps: that followed, (network,).
        stationary: whether the gradient is at most the tolerance x max(`Objective.scale`, |objective|), (network,).
    """

    objective: str
    params: Params
    before: Float[np.ndarray, "network"]
    after: Float[np.ndarray, "network"]
    gradient_before: Float[np.ndarray, "network"]
    gradient_after: Float[np.ndarray, "network"]
    moved: Float[np.ndarray, "network"]
    steps: Int[np.ndarray, "network"]
    newton_steps: Int[np.ndarray, "network"]
    stationary: Bool[np.ndarray, "network"]


def polish(
    objective: Objective, params: Params, *, tolerance: float = 1e-10, max_steps: int = 2000, newton_steps: int = 100,
    newton_params: int = NEWTON, tell: Tell | None = None,
) -> Polished:  # fmt: skip
    """Minimise the objective from where each network is, until its gradient is as good as zero.

    All networks pass through one compiled program, each stopping for itself. First L-BFGS with a line search that obeys
    Wolfe's conditions (optax; Liu & Nocedal 1989, 10.1007/BF01589116), then Newton steps s = -(H + mu)^-1 g, damped as far
    as the decrease demands, with mu above the most negative eigenvalue (Levenberg's and Marquardt's trust region; Nocedal &
    Wright 2006, chapter 4), until the step is short as well. The objective never rises beyond rounding. Nothing here says
    that the result is a minimum: see `certificate`.

    Args:
        objective: which function.
        params: stacked, leaves (network, ...); they are read in float64.
        tolerance: of the gradient's length, relative to the objective or to `Objective.scale`, whichever is larger.
        max_steps: of L-BFGS.
        newton_steps: at most so many follow.
        newton_params: networks with more params are left to L-BFGS alone.
        tell: called with (networks done, networks).

    Raises:
        ValueError: a number is out of range, or the params are not finite.
    """
    if not tolerance > 0 or max_steps < 0 or newton_steps < 0:
        raise ValueError(
            f"tolerance = {tolerance}, max_steps = {max_steps}, newton_steps = {newton_steps}: above 0, and at least 0, "
            "are expected"
        )
    population = Population.of(objective, params)
    size = population.layout.size
    newton = newton_steps if size <= newton_params else 0
    settings = np.broadcast_to([tolerance, max_steps, newton, objective.scale], (len(population.theta), 4))
    program = population.program(_polish, newton > 0)
    kept = (2 * MEMORY + 8) * size + (2 * size**2 if newton else 0)
    found = population.map(program, settings, values=kept, alone=newton > 0, tell=tell)
    theta, before, after, gradient_before, gradient_after, steps, refined = found
    level = tolerance * np.maximum(objective.scale, np.abs(after))
    return Polished(
        objective.name, population.layout.unravel(theta), before, after, gradient_before, gradient_after,
        np.linalg.norm(theta - population.theta, axis=1), steps, refined, gradient_after <= level,
    )  # fmt: skip


class _Descent(NamedTuple):
    theta: Array
    value: Array
    gradient: Array
    state: optax.OptState
    step: Array
    stalled: Array


class _Newton(NamedTuple):
    theta: Array
    value: Array
    gradient: Array
    damping: Array
    step: Array
    rejected: Array
    near: Array


@cache_compiled
def _polish(model: Model, kind: LossKind, layout: Layout, chunk: int, newton: bool) -> Callable:
    functions = flat(model, kind, layout, chunk)

    def one(theta, settings, data):
        tolerance, max_steps, newton_steps, unit = settings
        small = lambda value, gradient: jnp.linalg.norm(gradient) <= tolerance * jnp.maximum(unit, jnp.abs(value))  # noqa: E731
        before, start = functions.value(theta, data), jnp.linalg.norm(functions.gradient(theta, data))
        theta, step = _descend(functions, theta, data, small, max_steps)
        refined = jnp.zeros((), int)
        if newton:
            theta, refined = _newton(functions, layout.size, theta, data, small, newton_steps)
        after, end = functions.value(theta, data), jnp.linalg.norm(functions.gradient(theta, data))
        return theta, before, after, start, end, step, refined

    return jax.jit(jax.vmap(one, (0, 0, None)))


def _descend(functions: Flat, theta, data, small, max_steps):
    """L-BFGS until the gradient is small, the steps are used up, or the objective no longer falls."""
    value = functools.partial(functions.value, data=data)
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=LINE_STEPS)
    optimizer = optax.lbfgs(memory_size=MEMORY, linesearch=search)

    def going(carry: _Descent):
        return ~small(carry.value, carry.gradient) & (carry.step < max_steps) & (carry.stalled < STALLED)

    def advance(carry: _Descent) -> _Descent:
        updates, state = optimizer.update(
            carry.gradient, carry.state, carry.theta, value=carry.value, grad=carry.gradient, value_fn=value
        )
        theta: Any = optax.apply_updates(carry.theta, updates)
        after, gradient = functions.value(theta, data), functions.gradient(theta, data)
        good = jnp.isfinite(after) & (after <= carry.value + ROUNDING * jnp.abs(carry.value))
        smaller = jnp.linalg.norm(gradient) < 0.9 * jnp.linalg.norm(carry.gradient)
        lower = after < carry.value - ROUNDING * jnp.abs(carry.value)
        theta, after, gradient = (
            jnp.where(good, *pair) for pair in zip((theta, after, gradient), carry[:3], strict=True)
        )
        stalled = jnp.where(good & (lower | smaller), 0, carry.stalled + 1)
        return _Descent(theta, after, gradient, state, carry.step + 1, stalled)

    begin = _Descent(
        theta,
        value(theta),
        functions.gradient(theta, data),
        optimizer.init(theta),
        jnp.zeros((), int),
        jnp.zeros((), int),
    )
    end = jax.lax.while_loop(going, advance, begin)
    return end.theta, end.step


def _newton(functions: Flat, size: int, theta, data, small, max_steps):
    """Damped Newton steps from the eigenvalues of all entries of the Hessian."""

    def going(carry: _Newton):
        patience = jnp.where(small(carry.value, carry.gradient), SPENT, PATIENCE)
        return ~carry.near & (carry.step < max_steps) & (carry.rejected < patience)

    def advance(carry: _Newton) -> _Newton:
        columns = jax.lax.map(functions.hessian(carry.theta, data), jnp.eye(size), batch_size=min(16, size))
        values, vectors = jnp.linalg.eigh((columns + columns.T) / 2)
        scale = jnp.max(jnp.abs(values))
        floor = jnp.maximum(0.0, -1.5 * values[0]) * (values[0] < -FLAT * scale)
        shifted = values + floor + carry.damping * scale
        along = vectors.T @ carry.gradient
        moves = jnp.where(shifted > FLAT * scale, -along / jnp.where(shifted > 0, shifted, 1.0), 0.0)
        whole = jnp.where(jnp.abs(values) > FLAT * scale, along / jnp.where(values == 0, 1.0, values), 0.0)
        short = jnp.linalg.norm(whole) <= SHORT * jnp.maximum(1.0, jnp.linalg.norm(carry.theta))
        near = short & small(carry.value, carry.gradient)
        theta = carry.theta + vectors @ moves
        after, gradient = functions.value(theta, data), functions.gradient(theta, data)
        predicted = -(jnp.vdot(along, moves) + 0.5 * jnp.vdot(moves, values * moves))
        noise = ROUNDING * (jnp.abs(carry.value) + jnp.abs(after))
        lower = carry.value - after >= 0.1 * predicted
        closer = (predicted <= noise) & (jnp.linalg.norm(gradient) < jnp.linalg.norm(carry.gradient))
        good = ~near & jnp.isfinite(after) & jnp.where(predicted > noise, lower, closer)
        theta, after, gradient = (
            jnp.where(good, *pair) for pair in zip((theta, after, gradient), carry[:3], strict=True)
        )
        damping = jnp.where(good, jnp.where(carry.damping > 1e-12, carry.damping * 0.1, 0.0), carry.damping * 10 + 1e-6)
        return _Newton(theta, after, gradient, damping, carry.step + good, jnp.where(good, 0, carry.rejected + 1), near)

    begin = _Newton(
        theta, functions.value(theta, data), functions.gradient(theta, data), jnp.zeros(()), jnp.zeros((), int),
        jnp.zeros((), int), jnp.zeros((), bool),
    )  # fmt: skip
    end = jax.lax.while_loop(going, advance, begin)
    return end.theta, end.step
