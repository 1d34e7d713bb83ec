"""What single weights and units mean: connection strength, templates, projections into the inputs."""

from analysis.units.strength import (
    Agreement,
    UnitEffects,
    WeightEffects,
    agreement,
    spearman,
    unit_effects,
    weight_effects,
)

__all__ = [
    "Agreement",
    "UnitEffects",
    "WeightEffects",
    "agreement",
    "spearman",
    "unit_effects",
    "weight_effects",
]
