"""Which ends of training are minima, how many distinct ones there are, and how many were not found."""

from analysis.census.certificate import LABELS, Certificates, certify
from analysis.census.distinct import Distinct, distinct, log10_orbit_sizes, outputs_distance, weights_distance
from analysis.census.flatness import scale_tangents
from analysis.census.polish import Polished, polish
from analysis.census.richness import BasinShares, Discovery, basin_shares, chao1, coverage, discovery_curve
from analysis.census.study import Census, census

__all__ = [
    "LABELS",
    "BasinShares",
    "Census",
    "Certificates",
    "Discovery",
    "Distinct",
    "Polished",
    "basin_shares",
    "census",
    "certify",
    "chao1",
    "coverage",
    "discovery_curve",
    "distinct",
    "log10_orbit_sizes",
    "outputs_distance",
    "polish",
    "scale_tangents",
    "weights_distance",
]
