"""What single weights and units mean: connection strength, templates, projections into the inputs."""

from analysis.units.projections import Greatest, deconvolutions, gradient_images, greatest_inputs
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
    "Greatest",
    "Matches",
    "TopInputs",
    "UnitEffects",
    "WeightEffects",
    "agreement",
    "deconvolutions",
    "gradient_images",
    "greatest_inputs",
    "matches",
    "spearman",
    "templates",
    "top_inputs",
    "unit_effects",
    "weight_effects",
]
