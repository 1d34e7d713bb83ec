"""How training went: the curves of all seeds with their quantile bands, and where they end."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.statistics import BAND_LEVELS, Estimate, median, quantile_bands
from wspace.run import Run


@dataclasses.dataclass(frozen=True)
class Curves:
    """One metric of all seeds over training.

    Attributes:
        name: of the metric, as in `wspace.objective.METRICS`.
        unit: of the values.
        steps: step of each checkpoint.
        values: float64; NaN where not done or diverged, never filled.
        converged: seeds that reached the last checkpoint with finite numbers.
        levels: quantile levels of the bands.
        bands: quantiles over the converged seeds, float64; NaN when there are none.
    """

    name: str
    unit: str
    steps: Int[np.ndarray, "checkpoint"]
    values: Float[np.ndarray, "seed checkpoint"]
    converged: Bool[np.ndarray, "seed"]
    levels: tuple[float, ...]
    bands: Float[np.ndarray, "level checkpoint"]


@dataclasses.dataclass(frozen=True)
class Final:
    """One metric of the converged seeds at the last checkpoint.

    Attributes:
        name, unit: of the metric.
        values: float64, one for each converged seed.
        median: with its interval over seeds.
        low, high: smallest and largest value.
    """

    name: str
    unit: str
    values: Float[np.ndarray, "seed"]
    median: Estimate
    low: float
    high: float


def curves(
    name: str,
    steps: Int[np.ndarray, "checkpoint"],
    values: Float[np.ndarray, "seed checkpoint"],
    converged: Bool[np.ndarray, "seed"],
    *,
    unit: str = "",
) -> Curves:
    """Curves of all seeds, with bands at 5, 25, 50, 75 and 95 % over the converged ones.

    Args:
        name: of the metric.
        steps: step of each checkpoint.
        values: any float dtype; NaN where there is no value.
        converged: which seeds the bands are made of.
        unit: of the values.
    """
    values = values.astype(np.float64)
    return Curves(name, unit, steps, values, converged, BAND_LEVELS, quantile_bands(values[converged]))


def final(name: str, values: Float[np.ndarray, "seed"], *, rng: np.random.Generator, unit: str = "") -> Final:
    """Distribution over seeds of a metric at the end of training.

    Args:
        name: of the metric.
        values: of the converged seeds, at least one, all finite.
        rng: source of the bootstrap.
        unit: of the values.

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    values = values.astype(np.float64)
    return Final(name, unit, values, median(values, rng=rng, unit=unit), float(values.min()), float(values.max()))


def all_curves(run: Run) -> dict[str, Curves]:
    """metric -> `curves` of a run, complete or not."""
    converged = run.converged()
    return {
        name: curves(name, run.checkpoint_steps, values, converged, unit=metric_unit(name, run.loss_kind))
        for name, values in run.metrics.items()
    }


def all_finals(run: Run, *, rng: np.random.Generator) -> dict[str, Final]:
    """metric -> `final` over the converged seeds of a run; empty when there are none."""
    converged = run.converged()
    if not converged.any():
        return {}
    return {
        name: final(name, values[converged, -1], rng=rng, unit=metric_unit(name, run.loss_kind))
        for name, values in run.metrics.items()
    }


def metric_unit(name: str, loss_kind: str) -> str:
    """Unit of a metric: nats or squared error for losses, that per unit of weight for grad_norm, share, or none."""
    if name.endswith("accuracy"):
        return "share"
    if name.endswith("r2"):
        return ""
    unit = "nats" if loss_kind == "cross_entropy" else "squared error"
    return f"{unit} per unit of weight" if name == "grad_norm" else unit
