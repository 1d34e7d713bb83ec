"""Directions in weight space: random and filter-normalised, eigenvectors of the Hessian; others are in `projection`."""

import dataclasses
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from analysis.curvature import Objective, extremes
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

    For one network and for directions; see `analysis.curvature.extremes`. Never filter-normalised.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        params: one network.
        data: its train examples are used.
        num: eigenpairs; half of them from each end for `both`.
        which: end of the spectrum, algebraically.
        l2: coefficient of the L2 term.
        rng: source of the first vector.
        tolerance: of the residuals, relative to the largest |eigenvalue|.

    Raises:
        ValueError: `num` is not between 1 (2 for both ends) and the number of params, params are not finite, or the
            iteration does not converge.
    """
    layout = Layout.of(params)
    if not 1 <= num <= layout.size:
        raise ValueError(f"num = {num}: between 1 and {layout.size} eigenpairs can be computed here")
    if which == "both" and num < 2:
        raise ValueError(f"num = {num}: both ends take at least 2 eigenpairs")
    largest = {"largest": num, "smallest": 0, "both": num - num // 2}[which]
    function = Objective(model, kind, data, l2=l2)
    found = extremes(function, params, largest, num - largest, rng=rng, batch_ndim=0, tolerance=tolerance)
    if not found.converged.all():
        raise ValueError(
            f"{np.sum(~found.converged)} of {num} eigenvalues did not converge (residuals up to "
            f"{found.residuals.max():.2g}): ask for fewer, or raise tolerance"
        )
    return Eigenpairs(found.values, layout.unravel(found.vectors), found.residuals)


def _rows(directions: Params) -> Float[np.ndarray, "axis param"]:
    leaves = jax.tree.leaves(directions)
    return np.concatenate([np.float64(leaf).reshape(len(leaf), -1) for leaf in leaves], axis=1)
