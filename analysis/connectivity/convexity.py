"""Is the loss convex between trained networks? Jensen's inequality tried on segments and triangles, with a control.

A function is convex if and only if L(sum_k w_k theta_k) <= sum_k w_k L(theta_k) for all weights w >= 0 that sum to 1. One
violation beyond rounding shows that it is not; how often and how far it is violated says where the population lies.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from math import comb
from pathlib import Path as Folder
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.connectivity.barriers import PairBarriers
from analysis.connectivity.line import LOSSES, TOLERANCE, along, evaluator
from analysis.rows import Clock, Row, describe, keep_rows
from analysis.statistics import Estimate, Statistic, bootstrap_seeds, extreme_share, tuple_mean
from analysis.threads import in_threads
from analysis.training import metric_unit
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Params, digest, pick

DENOMINATOR = 6  # of the weights in a triangle: ten points inside, its centre among them
QUANTILES = (0.05, 0.5, 0.95)
NUM_ALPHAS = 11
BLOCK, MOST_BLOCKS = 16, 64  # samples side by side, and files on disk


@dataclasses.dataclass(frozen=True)
class Violations:
    """How often, and how far, the loss lies above what a convex one could reach.

    Attributes:
        excess: of each sample, the largest signed height above the chord or plane through the losses of its networks, at
            points strictly inside.
        tolerance: excess above this is more than rounding.
        members: positions of the networks of each sample.
        share: share of the samples in which the excess is above the tolerance; its interval resamples seeds. A share of 0
            or 1 would come with an interval of no width: there it is the exact binomial interval (Clopper & Pearson 1934,
            10.1093/biomet/26.4.404) of those samples alone that share no network, num_seeds // member if all were
            measured, and None for fewer than two.
        quantiles: level -> quantile of the excess over samples (linear interpolation), with an interval from resampling
            seeds; no interval where fewer than two samples share no network.
    """

    excess: Float[np.ndarray, "sample"]
    tolerance: Float[np.ndarray, "sample"]
    members: Int[np.ndarray, "sample member"]
    share: Estimate
    quantiles: dict[float, Estimate]

    @property
    def violated(self) -> Bool[np.ndarray, "sample"]:
        """In which samples the loss is certainly not convex."""
        return self.excess > self.tolerance

    @property
    def median(self) -> Estimate:
        """Median excess over samples."""
        return self.quantiles[0.5]


def segments(barriers: PairBarriers, *, rng: np.random.Generator, unit: str = "") -> Violations:
    """Jensen's inequality on the measured lines of a population.

    Args:
        barriers: on straight lines; on other paths an excess says nothing about convexity.
        rng: source of the resamples of seeds.
        unit: of the loss.

    Raises:
        ValueError: no pair was measured.
    """
    members = np.argwhere(np.triu(barriers.measured, 1))
    places = tuple(members.T)
    return violations(barriers.excess[places], barriers.tolerance[places], members, rng=rng, unit=unit)


def triples(
    model: Model,
    kind: LossKind,
    params: Params,
    data: Dataset,
    *,
    loss: str = "train_objective",
    num_triples: int | None = None,
    rng: np.random.Generator,
    l2: float = 0.0,
    path: Folder | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Violations:
    """Jensen's inequality on triangles of three networks, exact on all data, in float64.

    excess = max over w of L(w_1 theta_1 + w_2 theta_2 + w_3 theta_3) - [w_1 L(theta_1) + w_2 L(theta_2) + w_3 L(theta_3)],
    w = (a, b, c) / DENOMINATOR with positive integers a + b + c = DENOMINATOR. A triangle can be violated inside and not
    along its sides, and the other way round.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        params: stacked, leaves (seed, ...), at least three.
        data: train and test examples.
        loss: train_loss, test_loss or train_objective.
        num_triples: drawn without replacement; default: all.
        rng: source of the triples and of the resamples of seeds.
        l2: coefficient of the L2 term of train_objective.
        path: folder beside the run, to resume from.
        progress: told how many triples are done and how long the others take.

    Raises:
        ValueError: fewer than three networks, fewer triples than asked for, another loss, or a loss is not finite.
        StoreError: the folder cannot be written or holds something else.
    """
    num = _population(params, 3, loss)
    members = _unrank(_chosen(comb(num, 3), num_triples, "num_triples", rng), num, 3)
    weights = _lattice(DENOMINATOR)

    def measure(sample: np.ndarray) -> tuple[float, float]:
        points = tuple(pick(params, i) for i in sample.tolist())
        losses = evaluator(model, kind, points, data, l2, len(weights), _mixture)(weights)[loss]
        heights = losses[3:] - weights[3:] @ losses[:3]
        return float(heights.max()), TOLERANCE * float(np.abs(losses).max())

    settings = _settings(path, model, kind, params, data, loss, l2) | {
        "triples": digest(members),
        "points": DENOMINATOR,
    }
    excess, tolerance = _measured(measure, members, path, settings, "triangles", progress)
    return violations(excess, tolerance, members, rng=rng, unit=metric_unit(loss, kind))


def last_layer_control(
    model: Model,
    kind: LossKind,
    params: Params,
    data: Dataset,
    *,
    loss: str = "train_objective",
    num_pairs: int | None = None,
    rng: np.random.Generator,
    l2: float = 0.0,
    path: Folder | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Violations:
    """The lines of `segments` where the loss is convex: none may be violated, or the measurement is wrong.

    Outputs are affine in the params of the last layer and both losses convex in the outputs, so the loss is convex on the
    segment from network i to network i with the last layer of network j. It is measured as every other line is.

    Args:
        model, kind, data, loss, rng, l2, path, progress: see `triples`.
        params: stacked; a tuple or list of layers, the last one affine, as in `MLP`. At least two networks.
        num_pairs: ordered pairs (i, j), drawn without replacement; default: all.

    Returns:
        Members are (i, j).

    Raises:
        ValueError: params are no sequence of layers; and as in `triples`.
    """
    if not isinstance(params, tuple | list) or not params:
        raise ValueError(
            f"params are a {type(params).__name__}: a tuple or list of layers is expected, the last one affine"
        )
    num = _population(params, 2, loss)
    first, second = np.divmod(_chosen(num * (num - 1), num_pairs, "num_pairs", rng), num - 1)
    members = np.stack([first, second + (second >= first)], axis=1)

    def measure(sample: np.ndarray) -> tuple[float, float]:
        a, b = (pick(params, i) for i in sample.tolist())
        ends = (a, type(params)([*a[:-1], b[-1]]))
        barrier = along(model, kind, ends, data, l2=l2, num_alphas=NUM_ALPHAS).barriers[loss]
        return barrier.excess, barrier.tolerance

    settings = _settings(path, model, kind, params, data, loss, l2) | {"pairs": digest(members), "points": NUM_ALPHAS}
    excess, tolerance = _measured(measure, members, path, settings, "last layers", progress)
    return violations(excess, tolerance, members, rng=rng, unit=metric_unit(loss, kind))


def violations(
    excess: Float[np.ndarray, "sample"],
    tolerance: Float[np.ndarray, "sample"],
    members: Int[np.ndarray, "sample member"],
    *,
    rng: np.random.Generator,
    unit: str = "",
) -> Violations:
    """Share and size of the violations in samples that each involve several networks.

    A resample gives a sample the product of its networks' counts as its weight. Networks in no sample are left out.

    Args:
        excess, tolerance, members: see `Violations`.
        rng: source of the resamples of seeds.
        unit: of the excess.

    Raises:
        ValueError: there are no samples.
    """
    if len(excess) == 0:
        raise ValueError("violations got no samples: at least one pair or triple is expected")
    seeds, places = np.unique(members, return_inverse=True)
    num, places = len(seeds), places.reshape(members.shape)
    apart = _disjoint(places)

    def interval(statistic: Statistic) -> tuple[float, float] | None:
        """None where all samples share networks: resamples would hold the same samples again."""
        return bootstrap_seeds(statistic, num, rng=rng, pairs=True) if apart >= 2 else None

    violated = excess > tolerance
    count = int(violated.sum())
    if 0 < count < len(violated):
        share = interval(tuple_mean(violated.astype(float), places))
    else:
        share = extreme_share(count > 0, apart)
    return Violations(
        excess=excess,
        tolerance=tolerance,
        members=members,
        share=Estimate(count / len(violated), share, num, "share"),
        quantiles={
            level: Estimate(float(np.quantile(excess, level)), interval(_quantile(excess, places, level)), num, unit)
            for level in QUANTILES
        },
    )


def _disjoint(members: np.ndarray) -> int:
    """How many samples share no network with one counted before; chosen without a look at their values."""
    taken, num = np.zeros(members.max() + 1, bool), 0
    for sample in members[np.lexsort(members.T[::-1])]:
        if not taken[sample].any():
            taken[sample] = True
            num += 1
    return num


def _quantile(values: np.ndarray, members: np.ndarray, level: float) -> Statistic:
    """`np.quantile` of the list in which each sample occurs as often as the counts of its networks multiply to."""
    order = np.argsort(values, kind="stable")
    ranked, members = values[order], members[order]
    size = int(members.max()) + 1

    def one(seeds: np.ndarray) -> float:
        upto = np.cumsum(np.prod(np.bincount(seeds, minlength=size)[members], axis=1))
        if upto[-1] == 0:
            return np.nan
        whole, part = divmod(level * (upto[-1] - 1), 1)
        low, high = ranked[np.searchsorted(upto, [whole, min(whole + 1, upto[-1] - 1)], side="right")]
        return float(low + part * (high - low))

    return lambda resamples: np.array([one(seeds) for seeds in resamples])


def _mixture(points: tuple[Params, ...], weights: jax.Array, x: Any) -> Params:
    """sum_k w_k theta_k: exactly theta_k where the others weigh nothing."""
    del x
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *points)


def _lattice(denominator: int) -> np.ndarray:
    """(point, 3) weights: the three corners, then all positive multiples of 1/denominator that sum to 1."""
    parts = [w for w in itertools.product(range(1, denominator), repeat=3) if sum(w) == denominator]
    return np.concatenate([np.eye(3), np.array(parts) / denominator])


def _population(params: Params, least: int, loss: str) -> int:
    num = len(jax.tree.leaves(params)[0])
    if num < least:
        raise ValueError(f"at least {least} networks are expected, got {num}")
    if loss not in LOSSES:
        raise ValueError(f"loss = {loss!r} is not one of {LOSSES}")
    return num


def _chosen(total: int, num: int | None, name: str, rng: np.random.Generator) -> np.ndarray:
    """Sorted positions in 0 .. total-1: all, or `num` drawn without replacement."""
    if num is None:
        return np.arange(total)
    if not 1 <= num <= total:
        raise ValueError(f"{name} = {num}: there are {total} to choose from")
    return np.sort(rng.choice(total, num, replace=False))


def _unrank(ranks: np.ndarray, num: int, size: int) -> np.ndarray:
    """(rank, size) increasing subsets of 0 .. num-1, in the order of their largest members (combinatorial numbers)."""
    columns = []
    for k in range(size, 0, -1):
        upto = np.array([comb(c, k) for c in range(num)])
        largest = np.searchsorted(upto, ranks, side="right") - 1
        ranks = ranks - upto[largest]
        columns.append(largest)
    return np.stack(columns[::-1], axis=1)


def _settings(
    path: Folder | None, model: Model, kind: LossKind, params: Params, data: Dataset, loss: str, l2: float
) -> dict[str, Any]:
    if path is None:
        return {}
    return {
        "model": describe(model), "kind": kind, "params": digest(params), "data": data.hash, "loss": loss, "l2": l2,
    }  # fmt: skip


def _measured(
    measure: Callable[[np.ndarray], tuple[float, float]],
    members: np.ndarray,
    path: Folder | None,
    settings: Mapping[str, Any],
    what: str,
    progress: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Excess and tolerance of every sample, block by block."""
    blocks = np.array_split(members, int(np.clip(len(members) // BLOCK, 1, MOST_BLOCKS)))
    clock = Clock([len(block) for block in blocks])

    def compute(index: int) -> Row:
        excess, tolerance = np.array(in_threads(measure, blocks[index])).T
        return {"excess": excess, "tolerance": tolerance}

    def tell(done: int, of: int) -> None:
        del of
        progress(f"convexity on {clock.done(done)} of {len(members)} {what}, about {clock.left(done):.0f} s left")

    rows = keep_rows(path, settings, len(blocks), clock.timed(compute), tell)
    return np.concatenate([row["excess"] for row in rows]), np.concatenate([row["tolerance"] for row in rows])
