"""Alignment: compare networks modulo the symmetries of weight space."""

from analysis.alignment.activations import activation_similarity, match_activations
from analysis.alignment.all_pairs import PairMatches, cycle_error, match_pairs, transitivity_loss
from analysis.alignment.frank_wolfe import match_frank_wolfe
from analysis.alignment.matching import Match, match_weights
from analysis.alignment.merging import Repaired, average, repair
from analysis.alignment.nulls import Recovery, planted, random_relabelling, scrambled
from analysis.alignment.population import (
    Alignment,
    align_to_mean,
    align_to_medoid,
    align_to_reference,
    align_universe,
)
from analysis.alignment.straight_through import match_straight_through

__all__ = [
    "Alignment",
    "Match",
    "PairMatches",
    "Recovery",
    "Repaired",
    "activation_similarity",
    "align_to_mean",
    "align_to_medoid",
    "align_to_reference",
    "align_universe",
    "average",
    "cycle_error",
    "match_activations",
    "match_frank_wolfe",
    "match_pairs",
    "match_straight_through",
    "match_weights",
    "planted",
    "random_relabelling",
    "repair",
    "scrambled",
    "transitivity_loss",
]
