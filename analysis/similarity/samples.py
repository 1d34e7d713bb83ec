"""Samples around one restart against independent restarts: do they differ in function as restarts do?

A way to draw is a function `(centre, late, num, *, scale, rng)` of the restart's last checkpoint and its late ones (`Draw`):

- `diagonal` moves each param by its own standard deviation over late checkpoints;
- `low_rank` moves along the principal components of late checkpoints by theirs;
- `subspace` moves by the same standard deviations along as many random directions;
- `direction` takes a step along one random direction for each sample, a multiple of the weights' own length;
- `kept_steps` makes a way that steps along random directions as far as the train score stays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float

from analysis.landscape.directions import filter_normalised
from analysis.projection.components import principal_components
from analysis.similarity.function import function_distances, js_divergence, outputs, probabilities
from analysis.statistics import Estimate, Statistic, bootstrap_seeds, pair_median, pair_ratio
from wspace.data import Dataset
from wspace.models import Model
from wspace.tree import Layout

Task = Literal["classification", "regression"]

RANK = 5
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
LENGTHS = tuple(np.geomspace(0.01, 2.0, 24).tolist())  # of a random step, relative to the weights, that are tried
MARGINS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
ROUNDING = 1e-12  # of scores that are means of the same numbers
TOGETHER = 8  # networks along a step that are computed at once


@runtime_checkable
class Draw(Protocol):
    """A way to draw samples around a restart; more keywords have defaults."""

    def __call__(
        self, centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "sample param"]:  # fmt: skip
        """`num` samples around `centre`, the last of the checkpoints `late`, at a distance that grows with `scale`."""
        ...


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples around each restart of a population, and the other restarts. Of samples all are means over `num_samples`.

    A scale at which a sample's outputs are not finite holds NaN.

    Attributes:
        task: classification or regression.
        scales: way -> what was asked of it, ascending.
        score: way -> test accuracy (of regressions R^2).
        distance: way -> share of test examples on which a sample and its restart predict different classes (of regressions
            the root mean squared difference of outputs).
        normalised: way -> distance divided by the sample's own error, the share of examples that it gets wrong, at least
            one example's (of regressions its root mean squared error).
        divergence: way -> mean Jensen-Shannon divergence of predicted probabilities in nats; of regressions None.
        moved: way -> root mean squared distance in weight space of the samples from their restart.
        restart_score: of the restarts themselves.
        restart_distance, restart_normalised, restart_divergence: between restarts, as in `FunctionDistances`.
        still: restarts whose late checkpoints are all equal, around which nothing is spread.
        num_samples: around each restart, at each scale, in each way.
    """

    task: Task
    scales: Mapping[str, Float[np.ndarray, "_"]]
    score: Mapping[str, Float[np.ndarray, "seed _"]]
    distance: Mapping[str, Float[np.ndarray, "seed _"]]
    normalised: Mapping[str, Float[np.ndarray, "seed _"]]
    divergence: Mapping[str, Float[np.ndarray, "seed _"]] | None
    moved: Mapping[str, Float[np.ndarray, "seed _"]]
    restart_score: Float[np.ndarray, "seed"]
    restart_distance: Float[np.ndarray, "seed seed"]
    restart_normalised: Float[np.ndarray, "seed seed"]
    restart_divergence: Float[np.ndarray, "seed seed"] | None
    still: Bool[np.ndarray, "seed"]
    num_samples: int


@dataclasses.dataclass(frozen=True)
class EqualScore:
    """How far from its restart samples are that give up a stated part of its score.

    Attributes:
        margins: of accuracy or R^2, at least 0; at 0 samples are as good as restarts are.
        distance: of the samples from their restart, at the largest scale at which they give up no more than the margin.
        beyond: samples are that good up to the largest scale that was drawn; the distance is a lower bound.
        ratio: for each margin, median of `distance` over seeds / median distance between restarts, with an interval from
            resampling seeds; None where restarts do not differ.
    """

    margins: Float[np.ndarray, "margin"]
    distance: Float[np.ndarray, "seed margin"]
    beyond: Bool[np.ndarray, "seed margin"]
    ratio: tuple[Estimate | None, ...]


@dataclasses.dataclass(frozen=True)
class EqualDistance:
    """What samples have lost in score where they are as far from their restart as restarts are from each other.

    Attributes:
        target: median distance between restarts.
        lost: score of the restart less that of its samples; NaN for seeds whose samples never come that far.
        median: over seeds, with an interval from resampling them (and with them the target); None where some seed's samples
            never come that far, or restarts do not differ.
    """

    target: float
    lost: Float[np.ndarray, "seed"]
    median: Estimate | None


def diagonal(
    centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "sample param"]:  # fmt: skip
    """centre + scale sigma_p z_p, sigma_p the standard deviation of param p over late checkpoints, z_p standard normal."""
    return centre + scale * late.std(axis=0) * rng.standard_normal((num, len(centre)))


def low_rank(
    centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
    rng: np.random.Generator, rank: int = RANK,
) -> Float[np.ndarray, "sample param"]:  # fmt: skip
    """centre + scale sum_k sigma_k z_k v_k: v_k are the first `rank` principal components of late checkpoints."""
    sigma, directions = _spread(late, rank)
    return centre + scale * (rng.standard_normal((num, len(sigma))) * sigma) @ directions


def subspace(
    centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
    rng: np.random.Generator, rank: int = RANK,
) -> Float[np.ndarray, "sample param"]:  # fmt: skip
    """Like `low_rank`, with as many random orthonormal directions in place of the components: the same lengths."""
    sigma, _ = _spread(late, rank)
    directions = np.linalg.qr(rng.standard_normal((len(centre), len(sigma))))[0].T
    return centre + scale * (rng.standard_normal((num, len(sigma))) * sigma) @ directions


def direction(
    centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
    rng: np.random.Generator, layout: Layout | None = None,
) -> Float[np.ndarray, "sample param"]:  # fmt: skip
    """centre + scale |centre| z / |z| with z standard normal, another for each sample; `late` is not used.

    With the layout of params directions are filter-normalised (Li et al. 2018, 1712.09913) instead: what a unit receives
    moves by `scale` times its own length, and biases stay.
    """
    del late
    drawn = rng.standard_normal((num, len(centre)))
    if layout is None:
        return centre + scale * np.linalg.norm(centre) * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    params = layout.unravel(centre)
    for row in drawn:
        leaves = jax.tree.leaves(filter_normalised(layout.unravel(row), params))
        row[:] = np.concatenate([leaf.ravel() for leaf in leaves])
    return centre + scale * drawn


WAYS: Mapping[str, Draw] = MappingProxyType({"diagonal": diagonal, "low_rank": low_rank, "subspace": subspace})


def kept_steps(model: Model, layout: Layout, data: Dataset, *, lengths: Sequence[float] = LENGTHS) -> Draw:
    """A way that steps along filter-normalised random directions as far as the score on the train examples stays.

    Its scale is the share of that score that may be given up. Of `lengths`, each direction takes the longest up to which all
    keep the score; where not even the first does, the sample is the restart.

    Args:
        model: with `apply(params, x)`.
        layout: of its params.
        data: its train examples are used.
        lengths: ascending multiples of the weights' own lengths.

    Source: Fort, Hu & Lakshminarayanan 2019, 1912.02757, random subspace sampling; how far to step is decided here.
    """

    def draw(
        centre: Float[np.ndarray, "param"], late: Float[np.ndarray, "checkpoint param"], num: int, *, scale: float,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "sample param"]:  # fmt: skip
        score = lambda theta: _score(_outputs(model, layout, theta, data.x_train), data.y_train, data.task)  # noqa: E731
        own = float(score(np.broadcast_to(centre, (TOGETHER, len(centre))))[0])
        steps = direction(centre, late, num, scale=1.0, rng=rng, layout=layout) - centre
        return np.stack([centre + _kept(centre, step, own - scale * abs(own), score, lengths) * step for step in steps])

    return draw


def samples_around(
    model: Model, layout: Layout, late: Float[np.ndarray, "seed checkpoint param"], data: Dataset, *,
    ways: Mapping[str, Draw] = WAYS, scales: Sequence[float] | Mapping[str, Sequence[float]] = SCALES,
    num_samples: int = 10, rng: np.random.Generator, progress: Callable[[str], None] = lambda text: None,
) -> Samples:  # fmt: skip
    """Draw samples around the last checkpoint of every restart and compare what they predict on the test examples.

    Every scale of one restart and way has the same random numbers, so that its curve over scales is one of the same
    directions. Memory: the samples of one restart, way and scale.

    Args:
        model: with `apply(params, x)`.
        layout: of its params.
        late: late checkpoints of every restart, at least three, the last one its end.
        data: its test examples are used.
        ways: name -> how to draw.
        scales: of all ways, or name -> scales of each: multiples of the spread of late checkpoints, or what the way says.
        num_samples: for each restart, way and scale.
        rng: source of the samples.
        progress: told which restart is worked on.

    Raises:
        ValueError: there are fewer than two restarts or three late checkpoints, or some are not finite; there are no test
            examples, or their targets are all equal; scales are not of the ways that are drawn, are none or negative, or do
            not ascend; no samples are asked for.

    Source: Fort, Hu & Lakshminarayanan 2019, 1912.02757.
    """
    if isinstance(scales, Mapping) and set(scales) != set(ways):
        raise ValueError(f"scales are of {sorted(scales)}: scales of each of {sorted(ways)} are expected")
    asked = {way: scales[way] if isinstance(scales, Mapping) else scales for way in ways}
    _check(late, data, asked, num_samples)
    x, y, num = data.x_test, data.y_test, len(late)
    restarts = function_distances(model, layout.unravel(late[:, -1]), x, y, data.task)
    restart_score = np.zeros(num)
    measured = {
        name: {way: np.full((num, len(asked[way])), np.nan) for way in ways}
        for name in ("score", "distance", "normalised", "divergence", "moved")
    }
    for seed in range(num):
        progress(f"restart {seed + 1} of {num}")
        trajectory = late[seed].astype(np.float64)
        stays = np.broadcast_to(trajectory[-1], (num_samples, late.shape[2]))  # by the program that samples go through
        own = _outputs(model, layout, stays, x)[0]
        restart_score[seed] = _score(own[None], y, data.task)[0]
        for way, draw in ways.items():
            start = int(rng.integers(2**63))
            for k, scale in enumerate(asked[way]):
                drawn = draw(trajectory[-1], trajectory, num_samples, scale=scale, rng=np.random.default_rng(start))
                found = _compared(own, _outputs(model, layout, drawn, x), y, data.task)
                found["moved"] = float(np.sqrt(np.mean(np.sum(np.square(drawn - trajectory[-1]), axis=1))))
                for name, value in found.items():
                    measured[name][way][seed, k] = value
    classes = data.task == "classification"
    return Samples(
        task=data.task,
        scales={way: np.array(some, float) for way, some in asked.items()},
        score=measured["score"],
        distance=measured["distance"],
        normalised=measured["normalised"],
        divergence=measured["divergence"] if classes else None,
        moved=measured["moved"],
        restart_score=restart_score,
        restart_distance=restarts.distance,
        restart_normalised=restarts.normalised,
        restart_divergence=restarts.divergence,
        still=np.all(late == late[:, :1], axis=(1, 2)),
        num_samples=num_samples,
    )


def at_equal_score(
    samples: Samples, way: str, *, margins: Sequence[float] = MARGINS, rng: np.random.Generator
) -> EqualScore:
    """Disagreement of samples with their restart, against that of restarts with each other, at equal score.

    Along the scales of one way around restart i, s_i(k) is the samples' mean score and d_i(k) their mean distance; both
    begin at the restart itself, (s_i, 0). For a margin m the distance is d_i where s_i - s_i(k) = m for the last time, with
    linear interpolation between scales. Averaged over restarts, these samples score as another restart does, less m. Where
    scores are noisy the last time comes late, in favour of the samples. Those that lost m in accuracy disagree on m or more.

    Args:
        samples: from `samples_around`.
        way: one of its ways, with several scales.
        margins: of accuracy or R^2, at least 0.
        rng: source of the bootstrap over seeds.

    Raises:
        ValueError: a margin is negative or not finite, or there are none; the way was not drawn.
    """
    if len(margins) == 0 or not all(0 <= margin < np.inf for margin in margins):
        raise ValueError(f"margins = {list(margins)}: numbers of at least 0 are expected")
    curves = _curves(samples, way)
    found = [[_farthest(lost, distance, margin) for margin in margins] for lost, distance in curves]
    distance = np.array([[value for value, _ in row] for row in found])
    beyond = np.array([[out for _, out in row] for row in found])
    apart, num = pair_median(samples.restart_distance), len(distance)
    ratios = tuple(pair_ratio(_seed_median(column), apart, num, rng) for column in distance.T)
    return EqualScore(np.array(margins, float), distance, beyond, ratios)


def at_equal_distance(samples: Samples, way: str, *, rng: np.random.Generator) -> EqualDistance:
    """Score that samples have lost against their restart where they differ from it as two restarts differ.

    With the curves of `at_equal_score`: s_i - s_i(k) where d_i(k) first comes to the median distance between restarts, with
    linear interpolation between scales. 0 would mean that the neighbourhood of a restart holds networks as different as
    restarts, and as good.

    Args:
        samples: from `samples_around`.
        way: one of its ways, with several scales.
        rng: source of the bootstrap over seeds.

    Raises:
        ValueError: the way was not drawn.
    """
    curves, num = _curves(samples, way), len(samples.restart_score)
    apart = pair_median(samples.restart_distance)

    def lost_at(target: float) -> np.ndarray:
        return np.array([_price(lost, distance, target) for lost, distance in curves])

    def middle(resamples: np.ndarray) -> np.ndarray:
        return np.array([np.median(lost_at(t)[seeds]) for t, seeds in zip(apart(resamples), resamples, strict=True)])

    target = float(apart(np.arange(num)[None])[0])
    lost, estimate = lost_at(target), None
    if target > 0 and np.all(np.isfinite(lost)):
        with np.errstate(invalid="ignore"):  # samples may not come as far as a resample's restarts are apart
            ci = bootstrap_seeds(middle, num, rng=rng, pairs=True)
        unit = "share" if samples.task == "classification" else ""
        estimate = Estimate(float(np.median(lost)), ci if ci and np.all(np.isfinite(ci)) else None, num, unit)
    return EqualDistance(target, np.where(np.isfinite(lost), lost, np.nan), estimate)


def _check(late: np.ndarray, data: Dataset, scales: Mapping[str, Sequence[float]], num_samples: int) -> None:
    num, length, _ = late.shape
    if num < 2 or length < 3:
        raise ValueError(
            f"{num} restarts with {length} late checkpoints: at least 2 restarts and 3 checkpoints are expected"
        )
    if num_samples < 1:
        raise ValueError(f"num_samples = {num_samples}: at least one is expected")
    if bad := [seed for seed in range(num) if not np.all(np.isfinite(late[seed]))]:
        raise ValueError(f"late checkpoints of the restarts at positions {bad} are not finite")
    if len(data.x_test) == 0:
        raise ValueError("there are no test examples to compare predictions on")
    if data.task == "regression" and np.all(data.y_test == data.y_test[:1]):
        raise ValueError("the targets of the test examples are all equal: R^2 is not defined")
    for way, some in scales.items():
        if len(some) == 0 or np.any(np.diff(some) <= 0) or not 0 <= some[0] <= some[-1] < np.inf:
            raise ValueError(f"scales = {list(some)} of {way}: ascending numbers, at least 0, are expected")


def _outputs(model: Model, layout: Layout, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return outputs(model, layout.unravel(np.asarray(theta, np.float32)), x)


def _compared(own: np.ndarray, seen: np.ndarray, y: np.ndarray, task: Task) -> dict[str, float]:
    """One restart's outputs against those of samples; nothing where these are not finite."""
    if not np.all(np.isfinite(seen)):
        return {}
    if task == "classification":
        labels = seen.argmax(axis=-1)
        distance, error = np.mean(labels != own.argmax(axis=-1), axis=-1), np.mean(labels != y, axis=-1)
        pairs = (probabilities(np.stack([own, sample])) for sample in seen)
        divergence = {"divergence": float(np.mean([js_divergence(pair)[0, 1] for pair in pairs]))}
        normalised = distance / np.maximum(error, 1 / len(y))
    else:
        wide, divergence = seen.astype(np.float64), {}
        distance, error = (
            np.sqrt(np.mean(np.square(wide - other), axis=(-2, -1))) for other in (own, y.reshape(len(y), -1))
        )
        normalised = np.divide(distance, error, out=np.full_like(distance, np.nan), where=error > 0)
    means = {"score": _score(seen, y, task), "distance": distance, "normalised": normalised}
    return {name: float(np.mean(values)) for name, values in means.items()} | divergence


def _score(found: np.ndarray, y: np.ndarray, task: Task) -> np.ndarray:
    """Accuracy or R^2 of each network."""
    if task == "classification":
        return np.mean(found.argmax(axis=-1) == y, axis=-1)
    wide, targets = found.astype(np.float64), y.reshape(len(y), -1)
    total = np.sum(np.square(targets - targets.mean(axis=0, dtype=np.float64)))
    return 1 - np.sum(np.square(wide - targets), axis=(-2, -1)) / total


def _spread(late: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations along, and directions of, the principal components that there are, at most `rank`."""
    if rank < 1 or not np.all(np.isfinite(late)):
        raise ValueError(f"rank = {rank}, late checkpoints: a rank of at least 1 and finite params are expected")
    for num in range(min(rank, len(late) - 1, late.shape[1]), 0, -1):
        try:
            found = principal_components(late, num, route="gram")
        except ValueError:  # points span fewer dimensions than asked for
            continue
        return np.sqrt(found.explained * found.total), found.directions
    return np.zeros(1), np.zeros((1, late.shape[1]))


def _kept(
    centre: np.ndarray, step: np.ndarray, least: float, score: Callable[[np.ndarray], np.ndarray],
    lengths: Sequence[float],
) -> float:  # fmt: skip
    """Longest of `lengths` up to which centre + length step scores at least `least`; 0 where the first does not."""
    longest = 0.0
    for low in range(0, len(lengths), TOGETHER):
        some = np.asarray(lengths[low : low + TOGETHER])
        good = score(centre + np.resize(some, TOGETHER)[:, None] * step)[: len(some)] >= least - ROUNDING
        if not good.all():
            first = int(np.argmin(good))
            return float(some[first - 1]) if first else longest
        longest = float(some[-1])
    return longest


def _seed_median(values: np.ndarray) -> Statistic:
    return lambda seeds: np.median(values[seeds], axis=1)


def _curves(samples: Samples, way: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each restart, what samples have lost in score and how far they are from it, along scales; (0, 0) first."""
    if way not in samples.score:
        raise ValueError(f"way = {way!r}: one of {sorted(samples.score)} was drawn")
    lost = samples.restart_score[:, None] - samples.score[way]
    return [(np.append(0.0, one), np.append(0.0, far)) for one, far in zip(lost, samples.distance[way], strict=True)]


def _farthest(lost: np.ndarray, distance: np.ndarray, margin: float) -> tuple[float, bool]:
    """Distance where the curve last leaves those that lost at most `margin`; whether it never does."""
    last = int(np.flatnonzero(lost <= margin + ROUNDING)[-1])
    if last == len(lost) - 1:
        return float(distance[last]), True
    if not np.isfinite(lost[last + 1]):
        return float(distance[last]), False
    return float(np.interp(margin, lost[last : last + 2], distance[last : last + 2])), False


def _price(lost: np.ndarray, distance: np.ndarray, target: float) -> float:
    """What is lost where the distance first is `target`; infinite where it never is."""
    reached = np.flatnonzero(distance >= target)
    if len(reached) == 0:
        return np.inf
    first = int(reached[0])
    if first == 0:
        return 0.0
    return float(np.interp(target, distance[first - 1 : first + 1], lost[first - 1 : first + 1]))
