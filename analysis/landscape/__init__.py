"""The loss over lines and planes of weight space.

plane = plane_through(a, b, c)
surface = evaluate(model, kind, plane, grid(plane, 51), data)
surface.values["train_loss"]  # (x, y), at surface.distances
"""

from analysis.landscape.directions import (
    Eigenpairs,
    filter_normalised,
    hessian_directions,
    orthogonalised,
    random_directions,
)
from analysis.landscape.paths import Paths, paths
from analysis.landscape.planes import (
    Anchor,
    Plane,
    common_reach,
    custom_plane,
    grid,
    hessian_plane,
    line_through,
    pca_plane,
    plane_through,
    principal_plane,
    random_plane,
)
from analysis.landscape.shadows import Shadows, shadows
from analysis.landscape.slices import Slices, slices
from analysis.landscape.surface import Surface, evaluate

__all__ = [
    "Anchor",
    "Eigenpairs",
    "Paths",
    "Plane",
    "Shadows",
    "Slices",
    "Surface",
    "common_reach",
    "custom_plane",
    "evaluate",
    "filter_normalised",
    "grid",
    "hessian_directions",
    "hessian_plane",
    "line_through",
    "orthogonalised",
    "paths",
    "pca_plane",
    "plane_through",
    "principal_plane",
    "random_directions",
    "random_plane",
    "shadows",
    "slices",
]
