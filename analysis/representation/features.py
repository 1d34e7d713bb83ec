"""What every layer of a population hands on, and how a quantity of each layer is told over seeds."""

import dataclasses

import numpy as np
from jaxtyping import Float

from analysis.similarity.function import representations
from analysis.statistics import Estimate, median
from wspace.models import Network
from wspace.tree import AnyArray, Params


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """Medians over seeds with intervals from resampling seeds; n counts the seeds that have a value.

    Attributes:
        each: of every layer; None where no seed has a value.
        change: of every layer but the first, what it has more than the layer below, seed by seed; None as above.
    """

    each: tuple[Estimate | None, ...]
    change: tuple[Estimate | None, ...]


def features(
    model: Network, params: Params, x: Float[AnyArray, "example *feature"]
) -> tuple[Float[np.ndarray, "seed example _"], ...]:
    """The inputs and what every layer hands on, outputs last; one row of float32 numbers for each example.

    Layer 0 is x, the same for all networks: a read-only view, not copies. Layers of (height, width, unit) are flattened row
    by row, units innermost.

    Args:
        model: with `activations(params, x)`.
        params: stacked, leaves (seed, ...).
        x: inputs.

    Raises:
        ValueError: there are no examples, or what a layer hands on is not finite.
    """
    if len(x) == 0:
        raise ValueError("there are no examples: features are those of at least one")
    found = representations(model, params, x)
    for number, layer in enumerate(found, 1):
        if bad := [seed for seed, one in enumerate(layer) if not np.all(np.isfinite(one))]:
            raise ValueError(f"features of layer {number} of the networks at positions {bad} are not finite")
    rows = np.asarray(x, np.float32).reshape(len(x), -1)
    inputs = np.broadcast_to(rows, (len(found[0]), *rows.shape))
    return (inputs, *(layer.reshape(*layer.shape[:2], -1) for layer in found))


def over_seeds(values: Float[np.ndarray, "layer seed"], *, rng: np.random.Generator, unit: str = "") -> OverSeeds:
    """Median over seeds of every layer, and of the change from each layer to the next within the same seed.

    What the same seeds differ by under two treatments is told in the same way: give the differences. Of the inputs, the same
    for all seeds, the interval has no width: it knows nothing of other examples, and neither do the others.

    Args:
        values: NaN where a seed has none.
        rng: source of the resamples.
        unit: of the values.
    """
    tell = lambda row: median(row, rng=rng, unit=unit) if len(row) else None  # noqa: E731
    known = lambda rows: tuple(tell(row[np.isfinite(row)]) for row in rows)  # noqa: E731
    return OverSeeds(known(values), known(np.diff(values, axis=0)))
