"""Restarts in the plane by how differently a layer of theirs represents the same examples."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.similarity.embedding import Scaling, scaling
from analysis.threads import in_threads


@dataclasses.dataclass(frozen=True)
class RestartMap:
    """Networks in the plane by the distance between their representations.

    Attributes:
        distance: `shape_distances` of all networks, in radians.
        plane: classical scaling of these, with the share that the plane keeps and its stress.
        trained: which are restarts; the others are the untrained networks that were given beside.
    """

    distance: Float[np.ndarray, "network network"]
    plane: Scaling
    trained: Bool[np.ndarray, "network"]


def restart_map(
    trained: Float[np.ndarray, "seed _ *_"], untrained: Float[np.ndarray, "reference _ *_"] | None = None
) -> RestartMap:
    """Draw restarts in one plane by the distance between their representations at one layer.

    Args:
        trained: representations on the same examples; what follows the example axis is flattened.
        untrained: of other networks on these examples, e.g. the same ones at their init, as a reference.

    Raises:
        ValueError: as in `shape_distances` and `scaling`; untrained networks have other examples or units; or a
            representation does not vary, so that it has no distance.
    """
    rows = [some.reshape(*some.shape[:2], -1) for some in (trained, *([] if untrained is None else [untrained]))]
    if rows[-1].shape[1:] != rows[0].shape[1:]:
        raise ValueError(
            f"trained networks have (example, unit) {rows[0].shape[1:]}, untrained ones {rows[-1].shape[1:]}: equal ones "
            "are expected"
        )
    distance = shape_distances(np.concatenate(rows))
    if bad := np.flatnonzero(np.isnan(np.diag(distance))).tolist():
        raise ValueError(
            f"representations of the networks at positions {bad} do not vary: they have no distance from others"
        )
    return RestartMap(distance, scaling(distance), np.arange(len(distance)) < len(trained))


def shape_distances(representations: Float[np.ndarray, "network example *_"]) -> Float[np.ndarray, "network network"]:
    """Angular Procrustes distance between the representations of networks, in radians, in [0, pi/2].

    With X and Y the features (example, unit) about their mean over examples and at |X| = |Y| = 1 (Frobenius),

        d = min over orthogonal Q of arccos <X, Y Q> = arccos |X^T Y|_*,

    the sum of singular values: a metric, 0 where two representations are equal up to a rotation or reflection (such as
    another order of units), a shift and a scale; there rounding leaves up to about 1e-7. Unlike the debiased CKA it has no
    fixed value for unrelated representations, which are the nearer to each other the fewer the examples are beside the
    units: take many more examples than units, and untrained networks as a reference.

    Args:
        representations: of one layer, on the same examples; what follows the example axis is flattened.

    Returns:
        Symmetric, 0 on the diagonal; NaN for a network whose representation does not vary.

    Raises:
        ValueError: there are fewer than three examples, or values are not finite.

    Source: Williams, Kunz, Kornblith & Linderman 2021, Generalized shape metrics on neural representations, 2110.14739;
    Kendall 1984, 10.1112/blms/16.2.81.
    """
    num, num_examples = representations.shape[:2]
    if num_examples < 3:
        raise ValueError(f"{num_examples} examples: at least three are expected")
    if bad := [k for k, x in enumerate(representations) if not np.all(np.isfinite(x))]:
        raise ValueError(f"representations of the networks at positions {bad} are not finite")
    shapes: Any = in_threads(_shape, representations.reshape(num, num_examples, -1))

    def row(i: int) -> np.ndarray:
        return np.array([np.linalg.svd(shapes[i].T @ y, compute_uv=False).sum() for y in shapes[i + 1 :]])

    upper = np.zeros((num, num))
    for i, cosines in enumerate(in_threads(row, range(num))):
        upper[i, i + 1 :] = np.arccos(np.minimum(cosines, 1))
    distance = upper + upper.T
    flat = [k for k, x in enumerate(shapes) if not np.any(x)]
    distance[flat] = distance[:, flat] = np.nan
    return distance


def _shape(x: np.ndarray) -> np.ndarray:
    """Features without shift and scale, in no more dimensions than there are examples; 0 where they do not vary."""
    wide = x.astype(np.float64)
    if np.all(wide == wide[0]):
        return np.zeros((len(x), 1))
    wide -= wide.mean(axis=0)
    if wide.shape[1] > len(wide):  # a rotation that leaves the last dimensions empty
        u, s, _ = np.linalg.svd(wide, full_matrices=False)
        wide = u * s
    return wide / np.linalg.norm(wide)
