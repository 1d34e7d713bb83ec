"""Many one-dimensional slices of the loss at once: random directions through every network of a population.

One slice proves little: in many dimensions random directions see averages. An ensemble says what is common to slices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from analysis.landscape.planes import grid, random_plane
from analysis.landscape.surface import METRICS, Values, frozen, measurer
from analysis.rows import Clock, Row, describe, keep_rows
from analysis.statistics import Estimate, bootstrap_seeds, extreme_share, quantile_bands
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import digest, pick

HUGE = 1e300


@dataclasses.dataclass(frozen=True)
class Slices:
    """Metrics on random lines through the networks of a population.

    Attributes:
        positions: relative coordinates, odd, symmetric, 0 in the middle: a step of 1 is as large as the weights.
        lengths: distance that a relative coordinate of 1 stands for.
        values: metric -> (seed, direction, position), float64.
    """

    positions: Float[np.ndarray, "position"]
    lengths: Float[np.ndarray, "seed direction"]
    values: Values

    def rise(self, metric: str) -> Float[np.ndarray, "seed direction position"]:
        """The metric less its value at the centre of each slice."""
        values = self.values[metric]
        with np.errstate(invalid="ignore"):  # from an infinite centre a rise is undefined
            return values - values[:, :, len(self.positions) // 2, None]

    def bands(self, metric: str, levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> np.ndarray:
        """Quantiles over all slices of all seeds, (level, position): what a slice may look like, not an interval."""
        values = self.values[metric]
        return _restored(quantile_bands(_capped(values).reshape(-1, values.shape[-1]), levels))

    def median_at(self, metric: str, position: float, *, rng: np.random.Generator, unit: str = "") -> Estimate:
        """Median rise over all slices at the relative distances -position and position, with an interval over seeds.

        Seeds are resampled, each with all of its slices.

        Raises:
            ValueError: the position is not on the grid.
        """
        at = np.flatnonzero(np.isclose(np.abs(self.positions), position, atol=1e-9 * self.positions[-1]))
        if len(at) == 0:
            raise ValueError(f"position = {position} is not on the grid {self.positions.tolist()}")
        rises = self.rise(metric)[:, :, at].reshape(len(self.lengths), -1)
        return _over_seeds(np.median, rises, rng, unit)

    def share_lower(self, metric: str, *, tolerance: float, rng: np.random.Generator) -> Estimate:
        """Share of slices on which the metric falls below its value at the centre by more than the tolerance.

        The interval resamples seeds; of none or all it is the exact one of as many draws as there are seeds, each taken as
        one because its slices belong together.
        """
        lower = np.any(self.rise(metric) < -tolerance, axis=-1).astype(float)
        share = _over_seeds(np.mean, lower, rng, "share")
        if share.value in (0, 1):
            return dataclasses.replace(share, ci=extreme_share(share.value == 1, len(lower)))
        return share


def slices(
    model: Model, kind: LossKind, params: object, data: Dataset, *, rng: np.random.Generator, num_directions: int = 8,
    num: int = 21, reach: float = 1.0, filters: bool = True, metrics: Sequence[str] | None = None, l2: float = 0.0,
    dtype: Literal["float32", "float64"] = "float32", path: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Slices:  # fmt: skip
    """Metrics on `num_directions` random lines through each network of a stack, exact on all data.

    Args:
        model, kind, data, metrics, l2, dtype: see `surface.evaluate`.
        params: stacked, leaves (seed, ...).
        rng: source of the directions; every seed has a generator of its own, so that fewer seeds change nothing for the
            others.
        num_directions: lines through each network.
        num: points on each line, odd.
        reach: largest relative coordinate.
        filters: filter-normalised directions, see `directions.random_directions`.
        path: folder beside the run, to resume from: one row for each seed.
        progress: told how many networks are done and how long the others take.

    Raises:
        ValueError: a metric is unknown, num is even, there is no network or no direction.
        StoreError: the folder cannot be written or holds something else.
    """
    num_seeds = jax.tree.leaves(params)[0].shape[0]
    if num_seeds < 1 or num_directions < 1:
        raise ValueError(f"{num_seeds} networks and {num_directions} directions: at least one of each is expected")
    names = METRICS[data.task] if metrics is None else tuple(metrics)
    if unknown := [name for name in names if name not in METRICS[data.task]]:
        raise ValueError(f"metrics {unknown} are unknown; for {data.task} there are {', '.join(METRICS[data.task])}")
    root = int(rng.integers(2**32))
    positions = grid(random_plane(pick(params, 0), 1, rng=np.random.default_rng(root), filters=filters), num, reach)[0]
    measure = measurer(model, kind, data, names, l2=l2, dtype=dtype)

    def compute(seed: int) -> Row:
        own, centre = np.random.default_rng([root, seed]), pick(params, seed)
        planes = [random_plane(centre, 1, rng=own, filters=filters) for _ in range(num_directions)]
        found = [measure(plane)(positions[:, None]) for plane in planes]
        return {name: np.stack([row[name] for row in found]) for name in names} | {
            "lengths": np.array([plane.lengths[0] for plane in planes])
        }

    name = "" if path is None else describe(model)
    settings = {
        "model": name, "loss": kind, "data": data.hash, "params": digest(params), "root": root, "l2": l2,
        "directions": num_directions, "num": num, "reach": reach, "filters": filters, "metrics": list(names),
        "dtype": dtype,
    }  # fmt: skip
    clock = Clock([1] * num_seeds)
    tell = lambda done, of: progress(f"slices of {done} of {of} networks, about {clock.left(done):.0f} s left")  # noqa: E731
    rows = keep_rows(path, settings, num_seeds, clock.timed(compute), tell)
    values = {name: np.stack([row[name] for row in rows]) for name in names}
    return Slices(positions, np.stack([row["lengths"] for row in rows]), frozen(values))


def _over_seeds(statistic: Callable, values: np.ndarray, rng: np.random.Generator, unit: str) -> Estimate:
    """Of all values of all seeds, (seed, value), resampling seeds; infinite where it is."""
    capped = _capped(values)
    resampled = lambda seeds: np.array([statistic(capped[row]) for row in seeds])  # noqa: E731
    ci = bootstrap_seeds(resampled, len(values), rng=rng)
    ends = None if ci is None else (float(_restored(ci[0])), float(_restored(ci[1])))
    return Estimate(float(_restored(statistic(capped))), ends, len(values), unit)


def _capped(values: np.ndarray) -> np.ndarray:
    """Infinite values as huge ones: quantiles interpolate, and inf - inf is undefined."""
    return np.clip(values, -HUGE, HUGE)


def _restored(values: np.ndarray | float) -> np.ndarray:
    """What `_capped`, or an interpolation towards it, made huge is infinite again."""
    return np.where(np.abs(values) > HUGE * 1e-10, np.copysign(np.inf, values), values)
