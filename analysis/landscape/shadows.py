"""What a plane hides: networks drawn on it but lying off it, beside their shadows, the nearest points of the plane."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from analysis.landscape.planes import Plane
from analysis.landscape.surface import METRICS, Values, frozen, measurer
from wspace import objective
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Params, pick

LOSSES = ("train_loss", "test_loss")
TOGETHER = 16  # networks measured at once: always as many, for one compiled program


@dataclasses.dataclass(frozen=True)
class Shadows:
    """Networks and their nearest points of a plane.

    Attributes:
        coordinates: relative, of the shadows.
        residual: distance of each network from its shadow.
        away: distance of each network from the plane's origin: residual <= away.
        values: metric -> value of the network itself.
        shadow: metric -> value of its shadow, which is what the plane's contours show there.
    """

    coordinates: Float[np.ndarray, "point axis"]
    residual: Float[np.ndarray, "point"]
    away: Float[np.ndarray, "point"]
    values: Values
    shadow: Values

    @property
    def off(self) -> Float[np.ndarray, "point"]:
        """Share of the squared distance from the origin that the plane does not hold, in [0, 1]; 0 at the origin."""
        away = np.square(self.away)
        return np.divide(np.square(self.residual), away, out=np.zeros_like(away), where=away > 0).clip(0, 1)


def shadows(
    model: Model, kind: LossKind, plane: Plane, params: Params, data: Dataset, *, metrics: Sequence[str] = LOSSES
) -> Shadows:
    """Values of stacked networks and of their projections onto a line or plane, exact on all data, float32.

    Args:
        model, kind, data: see `surface.evaluate`.
        plane: onto which the networks are projected.
        params: stacked, leaves (point, ...), of any number of seeds and checkpoints.
        metrics: of `surface.METRICS` of the task that runs store too (no test_objective).

    Raises:
        ValueError: a metric is unknown, there are no networks, or they differ in structure from the plane.
    """
    num = jax.tree.leaves(params)[0].shape[0]
    if num < 1:
        raise ValueError("shadows got no networks; at least one is expected")
    found = [plane.project(pick(params, i)) for i in range(num)]
    coordinates, residual = np.array([at for at, _ in found]), np.array([far for _, far in found])
    away = np.sqrt(np.square(residual) + np.square(coordinates) @ np.square(plane.lengths))
    nearest = measurer(model, kind, data, [name for name in metrics if name in METRICS[data.task]])(plane)
    own: dict[str, list] = {name: [] for name in metrics}
    flat: dict[str, list] = {name: [] for name in metrics}
    for low in range(0, num, TOGETHER):
        rows = np.arange(low, low + TOGETHER).clip(max=num - 1)
        some = objective.evaluate(model, kind, jax.tree.map(lambda leaf, at=rows: np.asarray(leaf)[at], params), data)
        if unknown := [name for name in metrics if name not in some]:
            raise ValueError(f"metrics {unknown} are unknown; there are {', '.join(some)}")
        shadow = nearest(coordinates[rows])
        for name in metrics:
            own[name].append(np.asarray(some[name], np.float64)[: num - low])
            flat[name].append(shadow[name][: num - low])
    whole = lambda parts: frozen({name: np.concatenate(values) for name, values in parts.items()})  # noqa: E731
    return Shadows(coordinates, residual, away, whole(own), whole(flat))
