"""How training travels: principal components of trajectories, and the random walks that they have to differ from."""

from analysis.projection.components import Centre, Components, fix_signs, principal_components, schedule_weights
from analysis.projection.walks import Null, compare, cosine_shares, grams, pooled_walks, scattered, walk

__all__ = [
    "Centre",
    "Components",
    "Null",
    "compare",
    "cosine_shares",
    "fix_signs",
    "grams",
    "pooled_walks",
    "principal_components",
    "scattered",
    "schedule_weights",
    "walk",
]
