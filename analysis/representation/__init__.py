"""How layers transform the data: features in the plane, how separable and how far apart classes are, maps of restarts."""

from analysis.representation.classes import ClassDistances, class_distances
from analysis.representation.drawings import Drawing, Drawings, drawings
from analysis.representation.features import OverSeeds, features, over_seeds
from analysis.representation.probes import Probed, Separability, probe_layers, score_error, separability
from analysis.representation.shapes import RestartMap, restart_map, shape_distances

__all__ = [
    "ClassDistances",
    "Drawing",
    "Drawings",
    "OverSeeds",
    "Probed",
    "RestartMap",
    "Separability",
    "class_distances",
    "drawings",
    "features",
    "over_seeds",
    "probe_layers",
    "restart_map",
    "score_error",
    "separability",
    "shape_distances",
]
