"""What single weights and units mean: strength, templates, projections into the inputs, recurrence; no probabilities."""

from analysis.units.gabor import (
    GaborComparison,
    GaborFits,
    compare,
    fit_gabor,
    gabor,
    random_filters,
    random_phases,
    shuffled_pixels,
)
from analysis.units.probabilities import Calibration, WeightFacts, calibration, weight_facts
from analysis.units.projections import Greatest, deconvolutions, gradient_images, greatest_inputs
from analysis.units.recurrence import Recurrence, Types, recurrence, surrogates, types
from analysis.units.strength import (
    Agreement,
    UnitEffects,
    WeightEffects,
    agreement,
    unit_effects,
    weight_effects,
)
from analysis.units.templates import Matches, TopInputs, matches, templates, top_inputs

__all__ = [
    "Agreement",
    "Calibration",
    "GaborComparison",
    "GaborFits",
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
    "compare",
    "deconvolutions",
    "fit_gabor",
    "gabor",
    "gradient_images",
    "greatest_inputs",
    "matches",
    "random_filters",
    "random_phases",
    "recurrence",
    "shuffled_pixels",
    "surrogates",
    "templates",
    "top_inputs",
    "types",
    "unit_effects",
    "weight_effects",
    "weight_facts",
]
