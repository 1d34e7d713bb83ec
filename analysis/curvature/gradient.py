"""How much of the gradient lies in the top eigenspace of the Hessian, along training."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import beta

from analysis.curvature.hessian import gradients
from analysis.curvature.lanczos import MOST_STEPS, Extremes, extremes
from analysis.curvature.objective import Objective, Tell
from wspace.tree import Params


@dataclasses.dataclass(frozen=True)
class GradientShares:
    """|P g|^2 / |g|^2 with P the projection on the eigenvectors of the largest eigenvalues.

    Attributes:
        objective: whose gradient and Hessian, in words.
        shares: (*batch,); NaN where the gradient is 0.
        norms: |g|, (*batch,).
        num: k, dimensions of the eigenspace.
        null: k/P, the mean share of a random direction.
        null_ci: its central 95 %: the share of a random direction is Beta(k/2, (P-k)/2).
        converged: whether all k eigenpairs converged, (*batch,).
        extremes: the eigenpairs.
    """

    objective: str
    shares: Float[np.ndarray, "*batch"]
    norms: Float[np.ndarray, "*batch"]
    num: int
    null: float
    null_ci: tuple[float, float]
    converged: Bool[np.ndarray, "*batch"]
    extremes: Extremes


def gradient_shares(
    objective: Objective, params: Params, num: int, *, rng: np.random.Generator, batch_ndim: int = 1,
    more: int = 0, smallest: int = 0, tolerance: float = 1e-4, max_steps: int = MOST_STEPS, tell: Tell | None = None,
) -> GradientShares:  # fmt: skip
    """Share of the squared gradient in the eigenspace of the `num` largest eigenvalues.

    Gur-Ari, Roberts & Dyer 2018 (1812.04754): soon after the start most of the gradient lies in a space of as many
    dimensions as there are classes. Beside it stands what a random direction would have.

    Args:
        objective: which function.
        params: leaves batch + shape, e.g. (seed, checkpoint, ..).
        num: k, less than the number of params.
        rng: source of Lanczos' starting vectors.
        batch_ndim: number of leading axes of the params.
        more: how many further eigenvalues to compute behind them, for `outliers`.
        smallest: how many of the smallest eigenvalues to compute as well.
        tolerance: of the eigenpairs' residuals.
        max_steps: of Lanczos.
        tell: called with (networks done, networks).

    Raises:
        ValueError: `num` is out of range, or the params are not finite.
    """
    gradient = gradients(objective, params, batch_ndim=batch_ndim)
    size = gradient.shape[-1]
    if not 1 <= num < size:
        raise ValueError(f"num = {num}: 1 to {size - 1} dimensions are expected")
    pairs = extremes(
        objective, params, num + more, smallest, rng=rng, batch_ndim=batch_ndim, tolerance=tolerance,
        max_steps=max_steps, tell=tell,
    )  # fmt: skip
    norms = np.asarray(np.linalg.norm(gradient, axis=-1))
    inside = np.linalg.norm(np.einsum("...kp,...p->...k", pairs.vectors[..., :num, :], gradient), axis=-1)
    shares = np.divide(inside, norms, out=np.full_like(norms, np.nan), where=norms > 0) ** 2
    low, high = beta.ppf([0.025, 0.975], num / 2, (size - num) / 2)
    return GradientShares(
        objective.name, np.asarray(shares), norms, num, num / size, (float(low), float(high)),
        np.asarray(np.all(pairs.converged[..., :num], axis=-1)), pairs,
    )  # fmt: skip


def eigenspace_overlaps(
    first: Float[np.ndarray, "*batch pair param"], second: Float[np.ndarray, "*batch pair param"]
) -> Float[np.ndarray, "*batch"]:
    """(1/k) sum_ij <u_i, v_j>^2 of two orthonormal sets: 1 for the same space, k/P on average for random ones.

    Gur-Ari et al. 2018 (1812.04754), equation 5: whether the top eigenspace stays where it is while training goes on.
    """
    return np.asarray(np.sum(np.square(first @ np.swapaxes(second, -1, -2)), axis=(-1, -2)) / first.shape[-2])
