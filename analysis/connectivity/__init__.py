"""How networks hang together: the loss along paths between them, barriers over all pairs, the tree that these make.

line = straight_line(model, kind, params_a, params_b, data)
barriers = barrier_matrices(model, kind, params, data)["train_loss"]
"""

from analysis.connectivity.barriers import PairBarriers, barrier_matrices, pair_barriers, random_pairs, straight_routes
from analysis.connectivity.convexity import Violations, last_layer_control, segments, triples
from analysis.connectivity.curves import (
    Curve,
    Curves,
    Shape,
    arc_length,
    curve_at,
    curve_lines,
    curve_points,
    fit_curves,
)
from analysis.connectivity.line import LOSSES, Barrier, Line, Path, along, distance, straight, straight_line
from analysis.connectivity.merge_tree import MergeTree, components, merge_tree, minimax_gain, through_others

__all__ = [
    "LOSSES",
    "Barrier",
    "Curve",
    "Curves",
    "Line",
    "MergeTree",
    "PairBarriers",
    "Path",
    "Shape",
    "Violations",
    "along",
    "arc_length",
    "barrier_matrices",
    "components",
    "curve_at",
    "curve_lines",
    "curve_points",
    "distance",
    "fit_curves",
    "last_layer_control",
    "merge_tree",
    "minimax_gain",
    "pair_barriers",
    "random_pairs",
    "segments",
    "straight",
    "straight_line",
    "straight_routes",
    "through_others",
    "triples",
]
