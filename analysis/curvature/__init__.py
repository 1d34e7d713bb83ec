"""How the objective is curved: eigenvalues, density and trace of its Hessian, for whole populations, in float64."""

from analysis.curvature.gradient import GradientShares, eigenspace_overlaps, gradient_shares
from analysis.curvature.hessian import gradients, hessian_products, hessians
from analysis.curvature.lanczos import Extremes, extremes
from analysis.curvature.layers import Blocks, layer_blocks
from analysis.curvature.objective import Objective
from analysis.curvature.spectrum import Density, Outliers, Spectra, Traces, outliers, spectra, traces

__all__ = [
    "Blocks",
    "Density",
    "Extremes",
    "GradientShares",
    "Objective",
    "Outliers",
    "Spectra",
    "Traces",
    "eigenspace_overlaps",
    "extremes",
    "gradient_shares",
    "gradients",
    "hessian_products",
    "hessians",
    "layer_blocks",
    "outliers",
    "spectra",
    "traces",
]
