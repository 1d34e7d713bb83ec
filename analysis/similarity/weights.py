"""How alike restarts are: raw distances in weight space, against how far each one travelled and against null models."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform

from analysis.statistics import Estimate, pair_median, pair_ratio

CHUNK_VALUES = 4_000_000  # float64 values converted at once: 32 MB an array


@dataclasses.dataclass(frozen=True)
class Distances:
    """Euclidean geometry of a population in weight space; nothing is aligned, units keep their labels.

    With theta_0 and theta_T the params at the init and at the end, d = theta_T - theta_0. All float64.

    Attributes:
        end: |theta_T,i - theta_T,j|; exactly 0 between identical rows.
        init: |theta_0,i - theta_0,j|: how far apart the seeds were before training.
        travelled: |d_i|.
        norm: |theta_T,i|.
        cosine: <d_i, d_j> / (|d_i| |d_j|); NaN for a seed that did not move.
        orthogonal_moves: sqrt(init_ij^2 + |d_i|^2 + |d_j|^2): the distance at the end, had the seeds moved at right
            angles to each other and to the line between their inits.
        orthogonal_ends: sqrt(|theta_T,i|^2 + |theta_T,j|^2): the distance of two ends of these lengths in unrelated
            directions, which in many dimensions are close to orthogonal.
        ratio: median end distance over pairs / median distance travelled; None without pairs or when no seed moved.
        change: median end distance / median init distance over pairs; None without pairs or when all inits are equal.
        num_params: dimension of weight space.
    """

    end: Float[np.ndarray, "seed seed"]
    init: Float[np.ndarray, "seed seed"]
    travelled: Float[np.ndarray, "seed"]
    norm: Float[np.ndarray, "seed"]
    cosine: Float[np.ndarray, "seed seed"]
    orthogonal_moves: Float[np.ndarray, "seed seed"]
    orthogonal_ends: Float[np.ndarray, "seed seed"]
    ratio: Estimate | None
    change: Estimate | None
    num_params: int


def distances(
    theta_init: Float[np.ndarray, "seed param"],
    theta_final: Float[np.ndarray, "seed param"],
    *,
    rng: np.random.Generator,
) -> Distances:
    """All pairwise distances at the end and at the init, and the distance that each seed travelled.

    Squared differences are summed in float64, a chunk of params at a time, so memory beyond the arguments is bounded.
    The inner products of displacements follow from distances: 2 <a, b> = |a|^2 + |b|^2 - |a - b|^2.

    Args:
        theta_init: where the seeds started, float32 or float64.
        theta_final: where they ended, row by row the same seeds.
        rng: source of the bootstrap over seeds.

    Raises:
        ValueError: the shapes differ, there is no seed, or a value is not finite.
    """
    if theta_init.shape != theta_final.shape or len(theta_final) == 0:
        raise ValueError(f"theta_init has shape {theta_init.shape}, theta_final {theta_final.shape}: equal, not empty")
    num, num_params = theta_final.shape
    pairs = [np.zeros(num * (num - 1) // 2) for _ in range(3)]
    moved, norm = np.zeros(num), np.zeros(num)
    for chunk in _chunks(num, num_params):
        start, end = theta_init[:, chunk].astype(np.float64), theta_final[:, chunk].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            displacement = end - start
        for total, rows in zip(pairs, (start, end, displacement), strict=True):
            total += pdist(rows, "sqeuclidean")
        moved += np.einsum("ip,ip->i", displacement, displacement)
        norm += np.einsum("ip,ip->i", end, end)
    if not np.all(np.isfinite(moved + norm)):
        raise ValueError(f"seeds at positions {np.flatnonzero(~np.isfinite(moved + norm)).tolist()} are not finite")
    init2, end2, displacement2 = (squareform(total) for total in pairs)
    end, init, travelled = np.sqrt(end2), np.sqrt(init2), np.sqrt(moved)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (np.add.outer(moved, moved) - displacement2) / (2 * np.outer(travelled, travelled))
    cosine[moved == 0] = cosine[:, moved == 0] = np.nan  # where rounding / 0 would be infinite
    median_end, median_init = pair_median(end), pair_median(init)
    median_travelled = lambda seeds: np.median(travelled[seeds], axis=1)  # noqa: E731
    return Distances(
        end=end,
        init=init,
        travelled=travelled,
        norm=np.sqrt(norm),
        cosine=np.clip(cosine, -1, 1),
        orthogonal_moves=_without_diagonal(np.sqrt(init2 + np.add.outer(moved, moved))),
        orthogonal_ends=_without_diagonal(np.sqrt(np.add.outer(norm, norm))),
        ratio=pair_ratio(median_end, median_travelled, num, rng),
        change=pair_ratio(median_end, median_init, num, rng),
        num_params=num_params,
    )


def _chunks(num: int, num_params: int) -> list[slice]:
    size = max(1, CHUNK_VALUES // num)
    return [slice(low, low + size) for low in range(0, num_params, size)]


def _without_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Zero on the diagonal, as in the distance matrices."""
    matrix = matrix.copy()
    np.fill_diagonal(matrix, 0)
    return matrix
