"""The census of a population: polish, certify, tell apart, count what was found and estimate what was not."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, Int

from analysis.census.certificate import Certificates, certify
from analysis.census.distinct import Distinct, distinct, log10_orbit_sizes
from analysis.census.polish import Polished, polish
from analysis.census.richness import BasinShares, Discovery, basin_shares, chao1, coverage, discovery_curve
from analysis.curvature.objective import Objective, Population, flat
from analysis.statistics import Estimate
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.symmetry import Symmetry
from wspace.tree import Layout, Params

MOST_EXAMPLES = 512  # on which functions are compared: as many evenly chosen ones


@dataclasses.dataclass(frozen=True)
class Census:
    """What a population's ends of training are, and how many distinct minima are among them.

    Attributes:
        polished: all networks, polished.
        certificates: of all of them.
        certified: positions of those that are certified minima.
        distinct: which of the certified ones are the same; None where there are none.
        labels: which minimum each certified network is, numbered by increasing objective, (certified,).
        by_function: whether the labels tell functions apart, not weights: where a minimum has flat directions beyond those
            of the symmetry group, it is a continuum of weights.
        objectives: of each minimum, the lowest of its networks, (minimum,).
        representatives: position, among all networks, of the network with the lowest objective, (minimum,).
        log10_copies: log10 of how many copies permutations and signs make of each minimum, (minimum,).
        shares: basins, by the share of certified networks that ended there; None where there are none.
        discovery: distinct minima against restarts; None where there are none.
        unseen: Chao's lower bound of all minima, those not found included; None where there are none.
        coverage: share of restarts that would end in a minimum already found; None where there are none.
    """

    polished: Polished
    certificates: Certificates
    certified: Int[np.ndarray, "certified"]
    distinct: Distinct | None
    labels: Int[np.ndarray, "certified"]
    by_function: bool
    objectives: Float[np.ndarray, "minimum"]
    representatives: Int[np.ndarray, "minimum"]
    log10_copies: Float[np.ndarray, "minimum"]
    shares: BasinShares | None
    discovery: Discovery | None
    unseen: Estimate | None
    coverage: Estimate | None

    @property
    def num_minima(self) -> int:
        """Distinct certified minima."""
        return len(self.objectives)


def census(
    objective: Objective, params: Params, *, symmetry: Symmetry, rng: np.random.Generator, tolerance: float = 1e-4,
    gradient_tolerance: float = 1e-10, max_steps: int = 2000, newton_steps: int = 100,
    progress: Callable[[str], None] = lambda text: None,
) -> Census:  # fmt: skip
    """Count the minima that restarts end in.

    Every network is polished in float64 (`polish`) and labelled (`certify`). Certified minima are told apart modulo the
    symmetry group and by function (`distinct`); what was met once or twice says how many were not met at all (`chao1`,
    `coverage`). Networks without a certificate are counted apart and are no part of the rest.

    Args:
        objective: whose minima.
        params: stacked, leaves (network, ...): independent restarts.
        symmetry: of the model; `Symmetry(())` where there is none.
        rng: source of probes and of the matcher's restarts.
        tolerance: relative distance up to which two minima are the same.
        gradient_tolerance: of polishing; certificates allow 100 times as much.
        max_steps: of L-BFGS.
        newton_steps: at most so many follow.
        progress: told what is being done.

    Raises:
        ValueError: the params are not finite, or an option is out of range.
    """
    tell = lambda what: lambda done, num: progress(f"{what}: {done} of {num} restarts")  # noqa: E731
    polished = polish(
        objective,
        params,
        tolerance=gradient_tolerance,
        max_steps=max_steps,
        newton_steps=newton_steps,
        tell=tell("polishing"),
    )
    certificates = certify(
        objective,
        polished.params,
        symmetry=symmetry,
        rng=rng,
        tolerance=100 * gradient_tolerance,
        tell=tell("certificates"),
    )
    certified = np.flatnonzero(certificates.minimum)
    if len(certified) == 0:
        nothing = np.zeros(0)
        return Census(
            polished, certificates, certified, None, np.zeros(0, int), False, nothing, np.zeros(0, int), nothing, None,
            None, None, None,
        )  # fmt: skip
    progress(f"telling {len(certified)} minima apart")
    params = jax.tree.map(lambda leaf: leaf[certified], polished.params)
    losses = certificates.values[certified]
    found = distinct(symmetry, params, losses, outputs(objective, params), rng=rng, tolerance=tolerance)
    continua = certificates.flat_shift[certified] + certificates.flat_inert[certified] > 0
    by_function = bool(np.any(continua))
    labels = found.by_function if by_function else found.by_weights
    order = np.argsort(losses, kind="stable")
    first = order[np.unique(labels[order], return_index=True)[1]]
    one_each = jax.tree.map(lambda leaf: leaf[first], params)
    return Census(
        polished, certificates, certified, found, labels, by_function, losses[first], certified[first],
        log10_orbit_sizes(symmetry, one_each), basin_shares(labels), discovery_curve(labels), chao1(labels),
        coverage(labels),
    )  # fmt: skip


def outputs(objective: Objective, params: Params) -> Float[np.ndarray, "network example output"]:
    """What the networks compute on up to MOST_EXAMPLES examples of the objective; logits without their mean.

    A softmax does not see the mean of an example's logits.
    """
    num = len(objective.examples[0])
    at = np.unique(np.linspace(0, num - 1, min(num, MOST_EXAMPLES)).round().astype(int))
    split, (x, y) = objective.split, objective.examples
    few = dataclasses.replace(objective.data, **{f"x_{split}": x[at], f"y_{split}": y[at]})
    population = Population.of(dataclasses.replace(objective, data=few), params)
    found = population.map(population.program(_outputs))
    found = found.reshape(len(found), len(at), -1)
    return found - found.mean(axis=-1, keepdims=True) if objective.kind == "cross_entropy" else found


@cache_compiled
def _outputs(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    return jax.jit(jax.vmap(flat(model, kind, layout, chunk).outputs, (0, None)))
