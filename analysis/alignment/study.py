"""How much of the difference between restarts is mere relabelling? All the evidence for one population, with its nulls."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from analysis.alignment.activations import match_activations
from analysis.alignment.all_pairs import PairMatches, cycle_error, match_pairs, transitivity_loss
from analysis.alignment.matching import Match, match_weights
from analysis.alignment.merging import Repaired, repairable
from analysis.alignment.nulls import Recovery, planted, random_relabelling, scrambled
from analysis.alignment.population import (
    Alignment,
    align_to_medoid,
    align_universe,
    cosines,
    gram,
    population_size,
)
from analysis.connectivity.barriers import PairBarriers, Route, pair_barriers
from analysis.connectivity.line import straight
from analysis.projection.components import fix_signs
from analysis.statistics import Estimate, median
from wspace.data import Dataset
from wspace.errors import SymmetryError
from wspace.models import Network
from wspace.objective import LossKind, work_per_example
from wspace.symmetry import Symmetry, act, balance, check
from wspace.tree import Layout, Params, digest, pick

NUM_RESTARTS, NUM_ALPHAS = 4, 11
NOISE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LEAST_COSINE = 0.02  # below, a planted copy would be fifty times as much noise as network
MOST_SEEDS, FEWEST_SEEDS = 12, 3
LINE_FLOPS = 2e12  # what the barriers may cost: a minute or less
EVALUATIONS = 120  # of a network on all data along one line, refinements included

Matrix = Float[np.ndarray, "seed seed"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Distance and cosine between the networks of every pair."""

    distance: Matrix
    cosine: Matrix


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The population before and after alignment as points in one plane: the first two principal components of both.

    Attributes:
        raw, aligned: coordinates of each seed, in units of weight space; the mean of all points is the origin.
        explained: share of the total variance along each of the two axes.
    """

    raw: Float[np.ndarray, "seed 2"]
    aligned: Float[np.ndarray, "seed 2"]
    explained: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Study:
    """What relabelling explains.

    Attributes:
        rows: positions of the seeds whose pairs were matched.
        geometry: raw; aligned (weight matching, pair by pair); random (one of the two relabelled at random); and for the
            same matcher, scrambled and scrambled_aligned (the same weights dealt out among the units), untrained and
            untrained_aligned (the same seeds at their init), absent without inits.
        matches: the matches behind `aligned`.
        units: aligned, random, scrambled, untrained -> per hidden layer, cosine between what matched units receive,
            (pair, unit).
        barriers: raw, random, weights, repaired (weights, then REPAIR; absent where it does not apply), activations ->
            loss -> per pair.
        cycle: share of units that do not return around three pair matches.
        universe: the same seeds in one labelling for all.
        transitivity: share of the similarity gained pair by pair that the universe gives up.
        recovery: of planted relabellings of these seeds.
        observed_noise: relative size of the noise that makes a planted copy as unlike as an aligned restart is, in
            cosine; None when aligned restarts are not alike at all, and of recovery's last level otherwise.
        shortened: share of |theta|^2 that balancing scales would take away, 0 where scales are not free; None where
            balancing did not converge (very deep networks).
        population: all seeds aligned to their medoid.
        embedding: of all seeds.
    """

    rows: Int[np.ndarray, "seed"]
    geometry: dict[str, Geometry]
    matches: PairMatches
    units: dict[str, list[Float[np.ndarray, "pair _"]]]
    barriers: dict[str, dict[str, PairBarriers]]
    cycle: Estimate | None
    universe: Alignment
    transitivity: float
    recovery: Recovery
    observed_noise: float | None
    shortened: Estimate | None
    population: Alignment
    embedding: Embedding


def study(
    model: Network,
    symmetry: Symmetry,
    kind: LossKind,
    params: Params,
    data: Dataset,
    *,
    rng: np.random.Generator,
    init: Params | None = None,
    l2: float = 0.0,
    num_seeds: int | None = None,
    path: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Align a population and weigh what that changes against null models.

    Args:
        model: hashable, with `apply` and `activations`.
        symmetry: of the model, e.g. `model.symmetry`; checked on the data first.
        kind: the data loss.
        params: stacked, leaves (seed, ...), at least two.
        data: train and test examples; activations and REPAIR use the train inputs.
        rng: source of restarts, random relabellings, plants and resamples.
        init: the same seeds before training, stacked.
        l2: coefficient of the L2 term of train_objective.
        num_seeds: how many seeds, from the first on, are compared pair by pair; default: what LINE_FLOPS allows.
        path: folder beside the run for the matrices, to resume from.
        progress: told what is being done.

    Raises:
        ValueError: there are fewer than two networks, they have no hidden units, or they are not finite.
        SymmetryError: the symmetry does not leave the model's function unchanged.
    """
    num = population_size(params)
    if not symmetry.layers:
        raise ValueError("the symmetry has no hidden units: there is nothing to relabel")
    first = pick(params, 0)
    check(model, symmetry, first, data.x_train)
    work = work_per_example(model, first, data.x_train.shape[1:]) * (len(data.x_train) + len(data.x_test))
    rows = np.arange(min(num, num_seeds or affordable_seeds(work)))
    some, some_init = (
        None if p is None else jax.tree.map(lambda leaf: np.asarray(leaf)[rows], p) for p in (params, init)
    )
    seeds = rng.integers(2**32, size=2)

    def restarted(group: Symmetry, reference: Params, moved: Params) -> Match:
        """The same restarts in every call, so that a resumed row is the row that would have been."""
        return match_weights(group, reference, moved, rng=np.random.default_rng(seeds[0]), num_restarts=NUM_RESTARTS)

    where = lambda name: None if path is None else path / name  # noqa: E731
    label = f"weights, {NUM_RESTARTS} restarts, seed {seeds[0]}"

    progress("aligning the population")
    quick = functools.partial(match_weights, rng=rng, num_restarts=2)
    population = align_to_medoid(symmetry, params, matcher=quick)
    progress("matching pairs")
    matches = match_pairs(symmetry, some, matcher=restarted, name=label, path=where("pairs"))
    relabelled = random_relabelling(symmetry, some, rng=np.random.default_rng(seeds[1]))[1]
    geometry = {
        "raw": Geometry(matches.distance(matches.raw), matches.cosine(matches.raw)),
        "aligned": Geometry(matches.distance(matches.inner), matches.cosine(matches.inner)),
        "random": _between(some, relabelled),
    }
    units = {
        "aligned": _matched_units(symmetry, some, matches),
        "random": _unit_pairs(symmetry, some, lambda i, j: pick(relabelled, j)),
    }
    nulls = {"scrambled": scrambled(symmetry, some, rng=np.random.default_rng(seeds[1]))}
    if some_init is not None:
        nulls["untrained"] = some_init
    for name, null in nulls.items():
        found = match_pairs(symmetry, null, matcher=restarted, name=label, path=where(f"{name}-pairs"))
        geometry[name] = Geometry(found.distance(found.raw), found.cosine(found.raw))
        geometry[f"{name}_aligned"] = Geometry(found.distance(found.inner), found.cosine(found.inner))
        units[name] = _matched_units(symmetry, null, found)
    progress("one labelling for all")
    universe = align_universe(symmetry, some, rng=rng)
    progress("finding planted relabellings")
    pairs = np.triu_indices(len(rows), 1)
    alike = float(np.median(geometry["aligned"].cosine[pairs]))
    observed = float(np.sqrt(max(0.0, 1 / alike**2 - 1))) if alike > LEAST_COSINE else None
    recovery = planted(symmetry, some, NOISE if observed is None else (*NOISE, observed), matcher=restarted, rng=rng)
    progress("barriers")
    barriers = _barriers(
        model, symmetry, kind, some, relabelled, matches, data, l2, where("barriers"), str(seeds), progress
    )
    return Study(
        rows=rows,
        geometry=geometry,
        matches=matches,
        units=units,
        barriers=barriers,
        cycle=cycle_error(matches.element, rng=rng) if len(rows) >= 3 else None,
        universe=universe,
        transitivity=transitivity_loss(matches, universe),
        recovery=recovery,
        observed_noise=observed,
        shortened=_shortened(symmetry, some, rng),
        population=population,
        embedding=embed(params, act(symmetry, population.element, params)),
    )


def affordable_seeds(work: float) -> int:
    """Seeds whose pairs' barriers cost at most LINE_FLOPS, five lines a pair; from FEWEST_SEEDS to MOST_SEEDS.

    Args:
        work: what a forward pass of one network on all examples takes, in floating-point operations.
    """
    pairs = LINE_FLOPS / (5 * EVALUATIONS * work)
    return int(np.clip((1 + np.sqrt(1 + 8 * pairs)) // 2, FEWEST_SEEDS, MOST_SEEDS))


def embed(raw: Params, aligned: Params) -> Embedding:
    """Principal components of the raw and the aligned networks together, from their Gram matrix in float64.

    Of each axis the coordinate of largest size is positive (`fix_signs`); equal networks lie at one place.
    """
    both = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), raw, aligned)
    inner = gram(both)
    num = len(inner)
    centre = np.eye(num) - 1 / num
    values, vectors = np.linalg.eigh(centre @ inner @ centre)
    top = np.argsort(values)[::-1][:2]
    points = vectors[:, top] * np.sqrt(np.maximum(values[top], 0))
    points = fix_signs(points.T).T
    total = max(float(values.clip(0).sum()), np.finfo(float).tiny)
    return Embedding(points[: num // 2], points[num // 2 :], tuple((values[top].clip(0) / total).tolist()))


def unit_cosines(symmetry: Symmetry, a: Params, b: Params) -> list[Float[np.ndarray, "_"]]:
    """Per hidden layer, the cosine between what each unit of a and the unit of the same place in b receive; 0 if nothing."""
    leaves_a, leaves_b = (
        dict(zip(Layout.of(p).names, (np.asarray(x, np.float64) for x in jax.tree.leaves(p)), strict=True))
        for p in (a, b)
    )
    result = []
    for layer in symmetry.layers:
        receives = [axis for axis in layer.axes if not axis.sends]
        u, v = (
            np.concatenate([np.moveaxis(leaves[x.leaf], x.axis, 0).reshape(layer.num, -1) for x in receives], axis=1)
            for leaves in (leaves_a, leaves_b)
        )
        norms = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        result.append(np.divide((u * v).sum(axis=1), norms, out=np.zeros(layer.num), where=norms > 0))
    return result


def _shortened(symmetry: Symmetry, params: Params, rng: np.random.Generator) -> Estimate | None:
    try:
        element = balance(symmetry, params, 1)
    except SymmetryError:
        return None
    before, after = (gram(p).diagonal() for p in (params, act(symmetry, element, params)))
    shares = 1 - np.divide(after, before, out=np.ones(len(before)), where=before > 0)
    return median(shares, rng=rng, unit="share")


def _unit_pairs(symmetry: Symmetry, params: Params, other: Callable[[int, int], Params]) -> list[np.ndarray]:
    num = len(jax.tree.leaves(params)[0])
    rows = [unit_cosines(symmetry, pick(params, i), other(i, j)) for i, j in itertools.combinations(range(num), 2)]
    return [np.stack(layer) for layer in zip(*rows, strict=True)]


def _matched_units(symmetry: Symmetry, params: Params, matches: PairMatches) -> list[np.ndarray]:
    return _unit_pairs(symmetry, params, lambda i, j: act(symmetry, matches.element[i, j], pick(params, j)))


def _between(params: Params, others: Params) -> Geometry:
    """Network i of one population against network j of the other, i < j, mirrored."""
    both = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), params, others)
    inner, num = gram(both), len(jax.tree.leaves(params)[0])
    squares, cross = np.diag(inner)[:num], np.triu(inner[:num, num:], 1)
    cross = cross + cross.T
    np.fill_diagonal(cross, squares)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * cross, 0))
    return Geometry(distance, cosines(cross, squares))


def _barriers(
    model: Any, symmetry: Symmetry, kind: LossKind, params: Params, relabelled: Params, matches: PairMatches,
    data: Dataset, l2: float, path: Path | None, seeds: str, progress: Callable[[str], None],
) -> dict[str, dict[str, PairBarriers]]:  # fmt: skip

    def routes(i: int) -> dict[str, Callable[[int], Route]]:
        a = pick(params, i)
        rest = jax.tree.map(lambda leaf: np.asarray(leaf)[i + 1 :], params)
        by_activations = match_activations(symmetry, a, rest, model=model, x=data.x_train).element
        aligned = lambda j: act(symmetry, matches.element[i, j], pick(params, j))  # noqa: E731
        ways: dict[str, Callable[[int], Route]] = {
            "raw": lambda j: ((a, pick(params, j)), straight),
            "random": lambda j: ((a, pick(relabelled, j)), straight),
            "weights": lambda j: ((a, aligned(j)), straight),
        }
        if repairable(model, a):
            ways["repaired"] = lambda j: ((a, aligned(j)), Repaired(model))
        return ways | {
            "activations": lambda j: ((a, act(symmetry, by_activations[j - i - 1], pick(params, j))), straight)
        }

    settings = {"params": digest(params), "matches": digest(matches.element), "seeds": seeds}
    return pair_barriers(
        model, kind, len(matches.inner), routes, data, l2=l2, num_alphas=NUM_ALPHAS, path=path, settings=settings,
        progress=progress,
    )  # fmt: skip
