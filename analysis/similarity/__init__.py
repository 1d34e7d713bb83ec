"""How alike restarts are: distances in weight space; predictions and representations."""

from analysis.similarity.weights import Distances, distances

__all__ = ["Distances", "distances"]
