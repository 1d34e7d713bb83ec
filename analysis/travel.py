"""How far, how fast and how straight training travels through weight space, as a whole and layer by layer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform

from wspace.tree import Layout

CHUNK_VALUES = 2**23  # float64 values converted at once: 64 MB


@dataclasses.dataclass(frozen=True)
class Travel:
    """Distances along trajectories theta_0 .. theta_T, seen at their checkpoints. All float64.

    Between checkpoints a trajectory is longer and more crooked: `moved`, `path` and `speed` are lower bounds.

    Attributes:
        steps: training step of each checkpoint.
        norm: |theta_t|.
        from_init, from_final: |theta_t - theta_0|, |theta_t - theta_T|.
        moved: |theta_{t+1} - theta_t|.
        angle: between (theta_t - theta_{t-1}) and (theta_{t+1} - theta_t), degrees; NaN where one of them is zero.
        num_params: dimension of the space.
    """

    steps: Int[np.ndarray, "checkpoint"]
    norm: Float[np.ndarray, "seed checkpoint"]
    from_init: Float[np.ndarray, "seed checkpoint"]
    from_final: Float[np.ndarray, "seed checkpoint"]
    moved: Float[np.ndarray, "seed move"]
    angle: Float[np.ndarray, "seed turn"]
    num_params: int

    @property
    def speed(self) -> Float[np.ndarray, "seed move"]:
        """Distance per training step between checkpoints."""
        return self.moved / np.diff(self.steps)

    @property
    def path(self) -> Float[np.ndarray, "seed checkpoint"]:
        """Length of the path up to each checkpoint."""
        return np.concatenate([np.zeros((len(self.moved), 1)), np.cumsum(self.moved, axis=1)], axis=1)

    @property
    def straightness(self) -> Float[np.ndarray, "seed"]:
        """|theta_T - theta_0| / length of the path, in [0, 1]: 1 on a straight line; NaN for a seed that did not move."""
        with np.errstate(invalid="ignore"):
            return self.from_init[:, -1] / self.path[:, -1]

    @property
    def from_init_null(self) -> Float[np.ndarray, "seed checkpoint"]:
        """Distance from the init (root mean square) of a walk with the same moves in independent isotropic directions."""
        return np.sqrt(np.cumsum(np.pad(np.square(self.moved), ((0, 0), (1, 0))), axis=1))

    @property
    def straightness_null(self) -> Float[np.ndarray, "seed"]:
        """Straightness of such a walk: sqrt(sum of squared moves) / sum of moves; NaN for a seed that did not move."""
        with np.errstate(invalid="ignore"):
            return self.from_init_null[:, -1] / self.path[:, -1]

    @property
    def angle_spread(self) -> float:
        """Standard deviation in degrees, about 90, of the angle between independent isotropic directions; large P."""
        return float(np.degrees(1 / np.sqrt(self.num_params)))


def travel(
    theta: Any,
    steps: Int[np.ndarray, "checkpoint"],
    *,
    layout: Layout | None = None,
    seeds: Sequence[int] | Int[np.ndarray, "_"] | None = None,
) -> dict[str, Travel]:
    """Distances of every seed along its trajectory.

    Args:
        theta: (seed, checkpoint, param): NumPy, JAX, or an array on disk such as `run.theta`, of which a few checkpoints of
            a few seeds are read at a time.
        steps: of the checkpoints, ascending, at least two.
        layout: of the params, for distances within each layer as well.
        seeds: positions along the first axis; default: all.

    Returns:
        `all`, and with a layout one for each layer: leaves whose names agree up to the last dot (`0.weight` and `0.bias` are
        layer `0`).

    Raises:
        ValueError: there are no seeds, there is one checkpoint, steps do not fit or ascend, the layout does not fit, or a
            value is not finite.
    """
    rows = _rows(theta, seeds)
    if theta.shape[1] != len(steps):
        raise ValueError(f"theta has shape {theta.shape} for {len(steps)} steps: one for each checkpoint is expected")
    if len(steps) < 2 or np.any(np.diff(steps) <= 0):
        raise ValueError(
            f"steps = {np.asarray(steps).tolist()}: a trajectory takes at least two checkpoints at ascending steps"
        )
    parts = {"all": [slice(0, theta.shape[2])]} | (_layers(layout, theta.shape[2]) if layout else {})
    sums = [_sums(theta, rows[low:high], parts) for low, high in _blocks(theta, len(rows))]
    found = {name: {kind: np.concatenate([s[name][kind] for s in sums]) for kind in sums[0][name]} for name in parts}
    if not np.all(np.isfinite(found["all"]["norm"])):
        bad = rows[~np.isfinite(found["all"]["norm"]).all(axis=1)]
        raise ValueError(f"seeds at positions {bad.tolist()} are not finite: diverged seeds have no trajectory")
    return {name: _travel(np.asarray(steps), of, _size(parts[name])) for name, of in found.items()}


def apart(
    theta: Any, *, seeds: Sequence[int] | Int[np.ndarray, "_"] | None = None
) -> Float[np.ndarray, "checkpoint seed seed"]:
    """Distances |theta_t,i - theta_t,j| between all seeds at every checkpoint; exactly 0 between identical networks.

    Args:
        theta, seeds: as in `travel`; one checkpoint of all seeds is read at a time.

    Raises:
        ValueError: there are no seeds, or a value is not finite.
    """
    rows, found = _rows(theta, seeds), []
    for checkpoint in range(theta.shape[1]):
        points = _finite(_read(theta, rows, checkpoint), rows)
        total, size = np.zeros(len(rows) * (len(rows) - 1) // 2), max(1, CHUNK_VALUES // len(rows))
        for low in range(0, points.shape[1], size):
            total += pdist(points[:, low : low + size], "sqeuclidean")
        found.append(squareform(np.sqrt(total)) if len(rows) > 1 else np.zeros((1, 1)))
    return np.array(found)


def together(
    theta: Any, *, seeds: Sequence[int] | Int[np.ndarray, "_"] | None = None
) -> Float[np.ndarray, "checkpoint seed seed"]:
    """Cosines between the displacements d_t = theta_t - theta_0 of all seeds: <d_t,i, d_t,j> / (|d_t,i| |d_t,j|).

    Of independent isotropic directions in P dimensions they are 0 with a standard deviation of 1 / sqrt(P).

    Args:
        theta, seeds: as in `travel`; two checkpoints of all seeds are held at a time.

    Returns:
        NaN where one of the two is still, or again, at its init: all of the first checkpoint.

    Raises:
        ValueError: there are no seeds, or a value is not finite.
    """
    rows, found = _rows(theta, seeds), []
    first = _finite(_read(theta, rows, 0), rows)
    for checkpoint in range(theta.shape[1]):
        displacement = _finite(_read(theta, rows, checkpoint), rows) - first
        sizes = np.sqrt(np.einsum("sp,sp->s", displacement, displacement))
        with np.errstate(invalid="ignore", divide="ignore"):
            displacement /= sizes[:, None]
        cosine = np.clip(displacement @ displacement.T, -1, 1)
        np.fill_diagonal(cosine, np.where(sizes > 0, 1, np.nan))
        found.append(cosine)
    return np.array(found)


def _layers(layout: Layout, num_params: int) -> dict[str, list[slice]]:
    if layout.size != num_params:
        raise ValueError(f"theta has {num_params} params, the layout {layout.size}")
    found: dict[str, list[slice]] = {}
    for name, offset, size in zip(layout.names, layout.offsets, layout.sizes, strict=True):
        layer = name.rpartition(".")[0] or name
        found.setdefault(layer, []).append(slice(offset, offset + size))
    return found


def _sums(theta: Any, rows: np.ndarray, parts: dict[str, list[slice]]) -> dict[str, dict[str, np.ndarray]]:
    """Squared distances of a few seeds, part by part, in one pass over the checkpoints."""
    first, last = _read(theta, rows, 0), _read(theta, rows, theta.shape[1] - 1)
    found: dict[str, dict[str, list]] = {
        name: {kind: [] for kind in ("norm", "init", "final", "moved", "turn")} for name in parts
    }
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused afterwards
        before, move = first, None
        for checkpoint in range(theta.shape[1]):
            here = first if checkpoint == 0 else _read(theta, rows, checkpoint)
            step = here - before
            for name, where in parts.items():
                of = found[name]
                of["norm"].append(_dot(here, here, where))
                of["init"].append(_dot(here - first, here - first, where))
                of["final"].append(_dot(here - last, here - last, where))
                if checkpoint:
                    of["moved"].append(_dot(step, step, where))
                if move is not None:
                    of["turn"].append(_turn(move, step, where))
            before, move = here, step if checkpoint else None
    empty = np.zeros((0, len(rows)))
    return {name: {k: np.array(v if v else empty).T for k, v in of.items()} for name, of in found.items()}


def _turn(a: np.ndarray, b: np.ndarray, where: list[slice]) -> np.ndarray:
    """Angle in degrees, accurate for nearly parallel moves too: 2 atan2(|u - v|, |u + v|) of the unit vectors u and v.

    Source: Kahan 2006, How futile are mindless assessments of roundoff in floating-point computation?, section 12.
    """
    sizes = np.sqrt(_dot(a, a, where)), np.sqrt(_dot(b, b, where))
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = a / sizes[0][:, None], b / sizes[1][:, None]
    return np.degrees(2 * np.arctan2(np.sqrt(_dot(u - v, u - v, where)), np.sqrt(_dot(u + v, u + v, where))))


def _dot(a: np.ndarray, b: np.ndarray, where: list[slice]) -> np.ndarray:
    return np.sum([np.einsum("sp,sp->s", a[:, part], b[:, part]) for part in where], axis=0)


def _travel(steps: np.ndarray, sums: dict[str, np.ndarray], num_params: int) -> Travel:
    return Travel(
        steps, np.sqrt(sums["norm"]), np.sqrt(sums["init"]), np.sqrt(sums["final"]), np.sqrt(sums["moved"]), sums["turn"],
        num_params,
    )  # fmt: skip


def _rows(theta: Any, seeds: Sequence[int] | np.ndarray | None) -> np.ndarray:
    rows = np.arange(theta.shape[0]) if seeds is None else np.asarray(seeds)
    if len(theta.shape) != 3 or len(rows) == 0 or rows.dtype == bool:
        raise ValueError(
            f"theta has shape {theta.shape}, seeds are {rows.tolist()}: (seed, checkpoint, param) and one or more positions "
            "along the first axis are expected; np.flatnonzero turns a mask into them"
        )
    return rows.astype(int)


def _finite(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(points)):
        bad = rows[~np.isfinite(points).all(axis=1)]
        raise ValueError(f"seeds at positions {bad.tolist()} are not finite: diverged seeds have no trajectory")
    return points


def _blocks(theta: Any, num: int) -> list[tuple[int, int]]:
    size = max(1, CHUNK_VALUES // theta.shape[2])
    return [(low, min(low + size, num)) for low in range(0, num, size)]


def _read(theta: Any, rows: np.ndarray, checkpoint: int) -> Float[np.ndarray, "seed param"]:
    return np.asarray(getattr(theta, "oindex", theta)[rows, checkpoint]).astype(np.float64)


def _size(where: list[slice]) -> int:
    return sum(part.stop - part.start for part in where)
