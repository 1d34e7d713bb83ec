"""How networks hang together: the loss along paths between them, barriers over all pairs, the tree that these make.

line = straight_line(model, kind, params_a, params_b, data)
barriers = barrier_matrices(model, kind, params, data)["train_loss"]
"""

from analysis.connectivity.barriers import PairBarriers, barrier_matrices, pair_barriers, random_pairs, straight_routes
from analysis.connectivity.line import LOSSES, Barrier, Line, Path, along, distance, straight, straight_line

__all__ = [
    "LOSSES",
    "Barrier",
    "Line",
    "PairBarriers",
    "Path",
    "along",
    "barrier_matrices",
    "distance",
    "pair_barriers",
    "random_pairs",
    "straight",
    "straight_line",
    "straight_routes",
]
