"""Directions in weight space: random and filter-normalised, eigenvectors of the Hessian; others are in `projection`."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from analysis.projection.components import fix_signs
from wspace import objective
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Layout, Params

UNIT_AXIS = -1  # column j of a weight holds what unit j receives


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """Extreme eigenpairs of the Hessian H of the training objective.

    Attributes:
        values: eigenvalues, from the largest down.
        directions: unit eigenvectors, leaves (axis, ...), float64; signs as `fix_signs` has them.
        residuals: |H v - lambda v| of each.
    """

    values: Float[np.ndarray, "axis"]
    directions: Params
    residuals: Float[np.ndarray, "axis"]


def random_directions(
    params: Params, num: int, *, rng: np.random.Generator, filters: bool = True, unit_axis: int = UNIT_AXIS
) -> Params:
    """Gaussian directions, by default filter-normalised and then orthogonalised; leaves (axis, ...), float64.

    Filter normalisation (Li et al. 2018, 1712.09913): d_u <- d_u |theta_u| / |d_u| for what each unit u receives, and no
    movement of biases, so that a step of 1 is as large as the weights, unit by unit, and slices of networks with other
    scales can be compared. It is for random directions only. Directions are made orthogonal afterwards, each to those
    before it, which changes the length of the later ones a little.

    Args:
        params: one network.
        num: directions.
        rng: source of the Gaussian numbers.
        filters: normalise; otherwise every direction has the length of theta.
        unit_axis: axis of a weight that runs over the units which receive.

    Raises:
        ValueError: `num` is less than 1, or the normalised direction is zero, as for a network whose weights are all zero.
    """
    if num < 1:
        raise ValueError(f"num = {num}: at least one direction is expected")
    length = np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(params)))
    drawn = []
    for _ in range(num):
        direction = jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)), params)
        if filters:
            drawn.append(filter_normalised(direction, params, unit_axis))
        else:
            scale = length / np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(direction)))
            drawn.append(jax.tree.map(lambda leaf, scale=scale: scale * leaf, direction))
    return orthogonalised(jax.tree.map(lambda *leaves: np.stack(leaves), *drawn))


def filter_normalised(direction: Params, params: Params, unit_axis: int = UNIT_AXIS) -> Params:
    """d_u |theta_u| / |d_u| for each unit u of every weight, 0 for biases (leaves with fewer than two axes)."""

    def one(d, w):
        d, w = np.asarray(d, np.float64), np.asarray(w, np.float64)
        if w.ndim < 2:
            return np.zeros_like(w)
        others = tuple(axis for axis in range(w.ndim) if axis != unit_axis % w.ndim)
        size, own = (np.sqrt(np.sum(np.square(v), axis=others, keepdims=True)) for v in (w, d))
        return d * np.divide(size, own, out=np.zeros_like(size), where=own > 0)

    return jax.tree.map(one, direction, params)


def orthogonalised(directions: Params) -> Params:
    """Each direction less its projections on those before it (Gram-Schmidt, twice for rounding); lengths follow.

    Args:
        directions: leaves (axis, ...).

    Raises:
        ValueError: a direction is zero or depends on those before it.
    """
    layout = Layout.of(jax.tree.map(lambda leaf: leaf[0], directions))
    rows = _rows(directions)
    for i in range(len(rows)):
        before = np.linalg.norm(rows[i])
        for _ in range(2):
            for j in range(i):
                rows[i] -= (rows[i] @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        if not np.linalg.norm(rows[i]) > 1e-10 * before:
            raise ValueError(
                f"direction {i} is zero, not finite, or depends on those before it: {len(rows)} independent are expected"
            )
    return layout.unravel(rows)


def hessian_directions(
    model: Model, kind: LossKind, params: Params, data: Dataset, num: int = 2, *,
    which: Literal["largest", "smallest", "both"] = "largest", l2: float = 0.0, rng: np.random.Generator,
    tolerance: float = 1e-6,
) -> Eigenpairs:  # fmt: skip
    """Eigenvectors of extreme eigenvalues of the Hessian of the training objective, exact on all data, in float64.

    Lanczos (ARPACK, implicitly restarted) on Hessian-vector products, forward over reverse mode (Pearlmutter 1994).
    Never filter-normalised.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        params: one network.
        data: its train examples are used.
        num: eigenpairs; half of them from each end for `both`.
        which: end of the spectrum, algebraically.
        l2: coefficient of the L2 term.
        rng: source of the first vector.
        tolerance: relative accuracy of the eigenvalues.

    Raises:
        ValueError: `num` is not between 1 (2 for both ends) and the number of params less 1, params are not finite, or the
            iteration does not converge.
    """
    layout = Layout.of(params)
    if not 1 <= num < layout.size:
        raise ValueError(f"num = {num}: between 1 and {layout.size - 1} eigenpairs can be computed here")
    if which == "both" and num < 2:
        raise ValueError(f"num = {num}: both ends take at least 2 eigenpairs")
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
        raise ValueError("params are not finite: a diverged network has no Hessian")
    product = hessian_product(model, kind, params, data, l2)
    operator = LinearOperator((layout.size,) * 2, matvec=product, dtype=np.float64)  # type: ignore[call-arg]
    ends = {"largest": "LA", "smallest": "SA", "both": "BE"}[which]
    try:
        values, vectors = eigsh(operator, num, which=ends, v0=rng.standard_normal(layout.size), tol=tolerance)  # type: ignore[arg-type]
    except ArpackError as error:
        raise ValueError(f"the eigenvalues did not converge ({error}): ask for fewer, or raise tolerance") from error
    order = np.argsort(values)[::-1]
    rows = fix_signs(vectors.T[order])
    residuals = [float(np.linalg.norm(product(v) - value * v)) for v, value in zip(rows, values[order], strict=True)]
    return Eigenpairs(values[order], layout.unravel(rows), np.array(residuals))


def hessian_product(
    model: Model, kind: LossKind, params: Params, data: Dataset, l2: float = 0.0
) -> Callable[[Float[np.ndarray, "param"]], Float[np.ndarray, "param"]]:
    """v -> H v for raveled float64 v, H the Hessian of the training objective, `objective.chunk_examples` at a time."""
    layout = Layout.of(params)
    chunk = objective.chunk_examples(model, params, data.x_train.shape, 4)
    wide = lambda leaf: np.asarray(leaf, np.float64) if np.issubdtype(np.asarray(leaf).dtype, np.floating) else leaf  # noqa: E731
    at, x, y = jax.tree.map(wide, (params, data.x_train, data.y_train))
    program = _hessian_program(model, kind, chunk)

    def product(v: Float[np.ndarray, "param"]) -> Float[np.ndarray, "param"]:
        with jax.enable_x64(True):
            parts = program(at, layout.unravel(np.asarray(v, np.float64).ravel()), x, y, float(l2))
            return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(parts)])

    return product


@objective.cache_compiled
def _hessian_program(model: Model, kind: LossKind, chunk: int) -> Callable:
    def product(params, v, x, y, l2):
        def part(x, y, weight):
            total = lambda p: jnp.sum(weight * objective.example_loss(kind, model.apply(p, x), y))  # noqa: E731
            return jax.jvp(jax.grad(total), (params,), (v,))[1]

        summed = objective.sum_chunks(part, x, y, chunk)
        return jax.tree.map(lambda h, u: h / len(x) + l2 * u, summed, v)

    return jax.jit(product)


def _rows(directions: Params) -> Float[np.ndarray, "axis param"]:
    leaves = jax.tree.leaves(directions)
    return np.concatenate([np.float64(leaf).reshape(len(leaf), -1) for leaf in leaves], axis=1)
