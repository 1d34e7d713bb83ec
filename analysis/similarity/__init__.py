"""How alike restarts are: distances in weight space; predictions and representations."""

from analysis.similarity.cka import cka
from analysis.similarity.correspondence import Correspondence, common_order, correspondence
from analysis.similarity.embedding import Neighbourhoods, Scaling, neighbourhoods, prediction_distances, scaling
from analysis.similarity.function import (
    FunctionDistances,
    disagreement,
    function_distances,
    independent_disagreement,
    js_divergence,
    outputs,
    probabilities,
    representations,
    rms_distance,
)
from analysis.similarity.samples import (
    EqualDistance,
    EqualScore,
    Samples,
    at_equal_distance,
    at_equal_score,
    kept_steps,
    samples_around,
)
from analysis.similarity.weights import Distances, distances

__all__ = [
    "Correspondence",
    "Distances",
    "EqualDistance",
    "EqualScore",
    "FunctionDistances",
    "Neighbourhoods",
    "Samples",
    "Scaling",
    "at_equal_distance",
    "at_equal_score",
    "cka",
    "common_order",
    "correspondence",
    "disagreement",
    "distances",
    "function_distances",
    "independent_disagreement",
    "js_divergence",
    "kept_steps",
    "neighbourhoods",
    "outputs",
    "prediction_distances",
    "probabilities",
    "representations",
    "rms_distance",
    "samples_around",
    "scaling",
]
