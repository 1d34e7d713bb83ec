"""The loss over lines and planes of weight space.

plane = plane_through(a, b, c)
surface = evaluate(model, kind, plane, grid(plane, 51), data)
surface.values["train_loss"]  # (x, y), at surface.distances
"""

from analysis.landscape.directions import (
    Components,
    Eigenpairs,
    filter_normalised,
    hessian_directions,
    orthogonalised,
    principal_components,
    random_directions,
)
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
    random_plane,
)
from analysis.landscape.shadows import Shadows, shadows
from analysis.landscape.slices import Slices, slices
from analysis.landscape.surface import Surface, evaluate

__all__ = [
    "Anchor",
    "Components",
    "Eigenpairs",
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
    "pca_plane",
    "plane_through",
    "principal_components",
    "random_directions",
    "random_plane",
    "shadows",
    "slices",
]
