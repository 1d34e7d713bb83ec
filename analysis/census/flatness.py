"""Flat directions of a stationary point: which of them have a reason, and whether the objective falls along them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from analysis.curvature.hessian import dense, heights
from analysis.curvature.objective import Population, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.symmetry import Symmetry
from wspace.tree import Layout, Params

ROUNDING = 64 * np.finfo(float).eps
EXACT = 1e-12  # of the largest |eigenvalue|: what is smaller is rounding
SLACK = 10  # times the gradient's length: directions that move no output have no other curvature at a stationary point
INERT = 1e-9  # of the largest singular value of the outputs' Jacobian: what is smaller moves no output
INSIDE = 1 - 1e-4  # cosine from which a direction counts as part of a space
PROBES = 16  # random directions within the flat space, besides its own
PROBE_STEPS = (1e-3, 1e-2)  # how far along them, of max(1, |theta|)


@dataclasses.dataclass(frozen=True)
class Flatness:
    """What a network's Hessian says once its near-zero eigenvalues are looked at one by one.

    Attributes:
        index: number of negative eigenvalues.
        scale, shift, inert: flat directions that rescale units, shift all logits of an example alike, move no output.
        other: flat directions without such a reason, or whose sign cannot be told.
        step: length of the Newton step in all directions that are not flat.
        drop: by how much the objective falls along explained flat directions, beyond rounding and what slope and curvature
            say.
    """

    index: int
    scale: int
    shift: int
    inert: int
    other: int
    step: float
    drop: float


def flatness(
    one: Population, values: Float[np.ndarray, "param"], columns: Float[np.ndarray, "param param"],
    gradient: Float[np.ndarray, "param"], symmetry: Symmetry | None, tolerance: float, rng: np.random.Generator,
) -> Flatness:  # fmt: skip
    """Tell flat directions apart from slightly curved ones, and explain them.

    Eigenvalues up to the tolerance x the largest are candidates. Without an L2 term, what the rescalings of units span, what
    moves no output of the examples and is not curved, and what shifts all logits of an example alike is taken out of their
    space: along the first and the last the objective is constant, along the second to first order. What remains is flat for
    no known reason, unless its curvature is clear: beyond rounding, and beyond what the Hessian changes by over the Newton
    step.

    Args:
        one: a single network.
        values: eigenvalues of its Hessian, ascending.
        columns: eigenvectors.
        gradient: of the objective.
        symmetry: of the model, or None.
        tolerance: of candidates.
        rng: source of the probes.
    """
    scale = float(np.abs(values).max())
    candidates = np.abs(values) <= tolerance * scale
    curved, space = columns[:, ~candidates].T, columns[:, candidates].T
    sizes, index = values[~candidates], int(np.sum(values[~candidates] < 0))
    counts, rest = {"scale": 0, "shift": 0, "inert": 0}, space
    if len(space) and one.objective.l2 == 0:
        if symmetry is not None:
            rescaling, rest = _parted(rest, scale_tangents(symmetry, one.params(one.theta[0])))
            counts["scale"] = len(rescaling)
        jacobian = one.map(one.program(_jacobian))[0]
        inert, rest = _parted(rest, _null_space(jacobian))
        sizes_inert, turn = np.linalg.eigh(_within(inert, columns, values))
        still = np.abs(sizes_inert) <= EXACT * scale + SLACK * np.linalg.norm(gradient)
        counts["inert"], rest = int(np.sum(still)), np.concatenate([rest, (turn.T @ inert)[~still]])
        if one.objective.kind == "cross_entropy" and len(rest):
            relative = jacobian - jacobian.mean(axis=1, keepdims=True)
            shifting, rest = _parted(rest, _null_space(relative))
            counts["shift"] = len(shifting)
    unclear = 0
    if len(rest):
        small, turn = np.linalg.eigh(_within(rest, columns, values))
        rest = turn.T @ rest
        told = np.abs(small) > EXACT * scale
        step = _newton(np.concatenate([curved, rest[told]]), np.concatenate([sizes, small[told]]), gradient)
        moved = dataclasses.replace(one, theta=one.theta + step)
        change = rest @ (dense(moved, np.arange(len(step)))[0] - (columns * values) @ columns.T) @ rest.T
        told &= np.abs(small) > np.linalg.norm(change, 2)
        unclear, index = int(np.sum(~told)), index + int(np.sum(small[told] < 0))
        curved, sizes = np.concatenate([curved, rest[told]]), np.concatenate([sizes, small[told]])
        rest = rest[~told]
    explained = _complement(space, np.concatenate([curved, rest]))
    drop = _drop(one, explained, gradient, columns, values, rng) if len(explained) else 0.0
    length = float(np.linalg.norm(_newton(curved, sizes, gradient)))
    return Flatness(index, counts["scale"], counts["shift"], counts["inert"], unclear, length, drop)


def scale_tangents(symmetry: Symmetry, params: Params) -> Float[np.ndarray, "direction param"]:
    """Where one network goes as a unit's factor grows: what it receives as it is, what it sends with a minus sign.

    Along these directions, one for each unit with scale symmetry, the function stays the same to first order; along the
    orbit that they are tangent to, exactly.

    Args:
        symmetry: of the model.
        params: one network.
    """
    layout = Layout.of(params)
    theta = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])
    names = dict(zip(layout.names, range(len(layout.names)), strict=True))
    rows = []
    for units in symmetry.layers:
        for unit in range(units.num) if units.scale else ():
            weights = [np.zeros(shape) for shape in layout.shapes]
            for axis in units.axes:
                leaf = np.moveaxis(weights[names[axis.leaf]], axis.axis, 0)
                leaf[unit] += -1.0 if axis.sends else 1.0
            rows.append(theta * np.concatenate([leaf.ravel() for leaf in weights]))
    return np.array(rows).reshape(len(rows), layout.size)


def _newton(directions: np.ndarray, sizes: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return -(directions @ gradient / sizes) @ directions


def _null_space(jacobian: np.ndarray) -> np.ndarray:
    """Orthonormal directions that the Jacobian (example, output, param) sends to zero, up to INERT of its size."""
    matrix = jacobian.reshape(-1, jacobian.shape[-1])
    if len(matrix) > matrix.shape[1]:
        matrix = np.linalg.qr(matrix, mode="r")
    _, sizes, rows = np.linalg.svd(matrix)
    return rows[int(np.sum(sizes > INERT * sizes.max())) :]


def _within(space: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The Hessian of these eigenvalues and eigenvectors, restricted to an orthonormal space."""
    inner = space @ columns
    return (inner * values) @ inner.T


def _parted(space: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the part of an orthonormal space that the others span, and of the rest."""
    if len(others) == 0 or len(space) == 0:
        return space[:0], space
    _, sizes, rows = np.linalg.svd(others, full_matrices=False)
    basis = rows[sizes > 1e-9 * max(sizes.max(), np.finfo(float).tiny)]
    left, cosines, _ = np.linalg.svd(space @ basis.T, full_matrices=True)
    inside = int(np.sum(cosines > INSIDE))
    return left.T[:inside] @ space, left.T[inside:] @ space


def _complement(space: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The part of an orthonormal space that is at right angles to other orthonormal directions."""
    left, cosines, _ = np.linalg.svd(space @ taken.T, full_matrices=True)
    return left.T[int(np.sum(cosines > 0.5)) :] @ space


def _drop(
    one: Population, space: np.ndarray, gradient: np.ndarray, columns: np.ndarray, values: np.ndarray,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """How far the objective falls close by, along directions of a flat space."""
    mixed = rng.standard_normal((PROBES, len(space))) @ space
    directions = np.concatenate([space, mixed / np.linalg.norm(mixed, axis=1, keepdims=True)])
    slope = np.tile(np.abs(directions @ gradient), 2)
    bend = np.tile(np.abs(np.square(directions @ columns) @ values), 2)
    directions, theta = np.concatenate([directions, -directions]), one.theta[0]
    steps = np.array([0.0, *PROBE_STEPS]) * max(1.0, float(np.linalg.norm(theta)))
    places = (theta + steps[:, None, None] * directions).reshape(-1, len(theta))
    found = heights(dataclasses.replace(one, theta=places)).reshape(len(steps), -1)
    expected = 2 * slope * steps[:, None] + bend * steps[:, None] ** 2
    return max(0.0, float((found[0] - found - expected).max()) - ROUNDING * abs(found[0, 0]))


@cache_compiled
def _jacobian(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    outputs = flat(model, kind, layout, chunk).outputs

    def one(theta, data):
        change = lambda v: jax.jvp(lambda t: outputs(t, data), (theta,), (v,))[1]  # noqa: E731
        changes = jax.lax.map(change, jnp.eye(layout.size))
        return jnp.moveaxis(changes.reshape(layout.size, -1, changes.shape[-1]), 0, -1)

    return jax.jit(jax.vmap(one, (0, None)))
