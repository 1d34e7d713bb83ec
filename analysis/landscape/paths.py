"""Trajectories on their own principal plane, over the loss on that very plane, with what the plane hides."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from analysis.landscape.planes import grid, principal_plane
from analysis.landscape.shadows import LOSSES, Shadows, shadows
from analysis.landscape.surface import Surface, evaluate
from analysis.projection.components import Components, principal_components
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Layout

MARGIN = 0.2  # of the farthest shadow's coordinate, added around it


@dataclasses.dataclass(frozen=True)
class Paths:
    """Trajectories on the plane of the first two principal components of all their points.

    Attributes:
        components: of all points, about their mean.
        surface: losses on the plane, as far along both axes, in distance, as the farthest shadow and MARGIN of it more.
        shadows: of every checkpoint of every seed, one after another.
        coordinates: of the shadows, relative: a step of 1 is one standard deviation of the points along that axis.
    """

    components: Components
    surface: Surface
    shadows: Shadows
    coordinates: Float[np.ndarray, "seed checkpoint 2"]


def paths(
    model: Model, kind: LossKind, layout: Layout, theta: Float[np.ndarray, "seed checkpoint param"], data: Dataset, *,
    num: int = 51, metrics: Sequence[str] = LOSSES, path: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Paths:  # fmt: skip
    """One trajectory, or several pooled, on their principal plane.

    Args:
        model, kind, data, metrics: see `surface.evaluate`.
        layout: of the model's params.
        theta: trajectories.
        num: points of the surface along each axis, odd.
        path, progress: see `surface.evaluate`.

    Raises:
        ValueError: there are too few points for two components, or they lie on one line.
    """
    found = principal_components(theta, 2)
    plane = principal_plane(found, layout)
    coordinates = found.coordinates / plane.lengths
    half = (1 + MARGIN) * float(np.max(np.abs(found.coordinates)))
    axes = grid(plane, num, half / plane.lengths)
    surface = evaluate(model, kind, plane, axes, data, metrics=metrics, path=path, progress=progress)
    points = layout.unravel(theta.reshape(-1, theta.shape[-1]))
    progress(f"losses of {len(jax.tree.leaves(points)[0])} networks and of their shadows")
    return Paths(found, surface, shadows(model, kind, plane, points, data, metrics=metrics), coordinates)
