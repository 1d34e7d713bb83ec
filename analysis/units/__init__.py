"""What single weights and units mean: strength, templates, projections into the inputs, recurrence; no probabilities."""

from analysis.units.probabilities import Calibration, WeightFacts, calibration, weight_facts
from analysis.units.projections import Greatest, deconvolutions, gradient_images, greatest_inputs
from analysis.units.recurrence import Recurrence, Types, recurrence, types
from analysis.units.strength import (
    Agreement,
    UnitEffects,
    WeightEffects,
    agreement,
    spearman,
    unit_effects,
    weight_effects,
)
from analysis.units.templates import Matches, TopInputs, matches, templates, top_inputs

__all__ = [
    "Agreement",
    "Calibration",
    "Greatest",
    "Matches",
    "Recurrence",
    "TopInputs",
    "Types",
    "UnitEffects",
    "WeightEffects",
    "WeightFacts",
    "agreement",
    "calibration",
    "deconvolutions",
    "gradient_images",
    "greatest_inputs",
    "matches",
    "recurrence",
    "spearman",
    "templates",
    "top_inputs",
    "types",
    "unit_effects",
    "weight_effects",
    "weight_facts",
]
