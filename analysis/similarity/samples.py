"""Samples around one restart against independent restarts: do they differ in function as restarts do?

A sample is the restart's last checkpoint plus Gaussian noise, as wide as its late checkpoints are spread, times a scale:
`diagonal` moves each param by its own standard deviation, `low_rank` moves along the principal components of the late
checkpoints by theirs, and `subspace` moves by the same standard deviations along as many random directions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from analysis.projection.components import principal_components
from analysis.similarity.function import disagreement as label_distance
from analysis.similarity.function import outputs, rms_distance
from analysis.statistics import Estimate, pair_median, pair_ratio
from wspace.data import Dataset
from wspace.models import Model
from wspace.tree import Layout

Draw = Callable[..., Float[np.ndarray, "sample param"]]
RANK = 5
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MARGIN = 0.01  # of accuracy (or R^2) that a sample may give up against other restarts and still count as as good


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples around each restart of a population, and the other restarts.

    Attributes:
        scales: multiples of the spread of late checkpoints, ascending.
        score: way -> test accuracy (of regressions R^2), mean over the samples around each restart.
        distance: way -> share of test examples on which a sample and its restart predict different classes (of regressions
            the root mean squared difference of outputs), mean over samples.
        moved: way -> root mean squared distance in weight space of the samples from their restart.
        restart_score: of the restarts themselves.
        restart_distance: between restarts.
        num_samples: around each restart, at each scale, in each way.
    """

    scales: Float[np.ndarray, "scale"]
    score: Mapping[str, Float[np.ndarray, "seed scale"]]
    distance: Mapping[str, Float[np.ndarray, "seed scale"]]
    moved: Mapping[str, Float[np.ndarray, "seed scale"]]
    restart_score: Float[np.ndarray, "seed"]
    restart_distance: Float[np.ndarray, "seed seed"]
    num_samples: int

    def as_good(self, way: str, margin: float = MARGIN) -> Float[np.ndarray, "seed"]:
        """Largest distance from its restart of samples as good as the other restarts, less `margin`; 0 where none are."""
        num = len(self.restart_score)
        others = (self.restart_score.sum() - self.restart_score) / (num - 1)
        good = self.score[way] >= (others - margin)[:, None]
        return np.max(np.where(good, self.distance[way], 0.0), axis=1)

    def ratio(self, way: str, *, margin: float = MARGIN, rng: np.random.Generator) -> Estimate | None:
        """Median of `as_good` over seeds / median distance between restarts, seeds resampled; None where that is 0."""
        best = self.as_good(way, margin)
        median: Callable[[Int[np.ndarray, "resample seed"]], np.ndarray] = lambda seeds: np.median(best[seeds], axis=1)  # noqa: E731
        return pair_ratio(median, pair_median(self.restart_distance), len(best), rng)


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


WAYS: Mapping[str, Draw] = MappingProxyType({"diagonal": diagonal, "low_rank": low_rank, "subspace": subspace})


def samples_around(
    model: Model, layout: Layout, late: Float[np.ndarray, "seed checkpoint param"], data: Dataset, *,
    ways: Mapping[str, Draw] = WAYS, scales: Sequence[float] = SCALES, num_samples: int = 10, rng: np.random.Generator,
    progress: Callable[[str], None] = lambda text: None,
) -> Samples:  # fmt: skip
    """Draw samples around the last checkpoint of every restart and compare what they predict on the test examples.

    Args:
        model: with `apply(params, x)`.
        layout: of its params.
        late: late checkpoints of every restart, at least three, the last one its end.
        data: its test examples are used.
        ways: name -> how to draw.
        scales: multiples of the spread of late checkpoints.
        num_samples: for each restart, way and scale.
        rng: source of the samples.
        progress: told which restart is worked on.

    Raises:
        ValueError: there are fewer than two restarts or three late checkpoints, there are no test examples, or scales are
            negative or do not ascend.

    Source: Fort, Hu & Lakshminarayanan 2019, 1912.02757.
    """
    num, length, _ = late.shape
    if num < 2 or length < 3:
        raise ValueError(
            f"{num} restarts with {length} late checkpoints: at least 2 restarts and 3 checkpoints are expected"
        )
    if len(data.x_test) == 0:
        raise ValueError("there are no test examples to compare predictions on")
    if np.any(np.diff(scales) <= 0) or scales[0] < 0:
        raise ValueError(f"scales = {list(scales)}: ascending numbers, at least 0, are expected")
    x, y = data.x_test, data.y_test
    own = outputs(model, layout.unravel(late[:, -1]), x)
    shape = (num, len(scales))
    score, distance, moved = ({way: np.zeros(shape) for way in ways} for _ in range(3))
    for seed in range(num):
        progress(f"restart {seed + 1} of {num}")
        trajectory = late[seed].astype(np.float64)
        for way, draw in ways.items():
            drawn = [draw(trajectory[-1], trajectory, num_samples, scale=scale, rng=rng) for scale in scales]
            seen = outputs(model, layout.unravel(np.concatenate(drawn).astype(np.float32)), x)
            seen = seen.reshape(len(scales), num_samples, *seen.shape[1:])
            for k in range(len(scales)):
                score[way][seed, k] = _score(seen[k], y, data.task).mean()
                distance[way][seed, k] = _distances(own[seed], seen[k], data.task).mean()
                squares = np.sum(np.square(drawn[k] - trajectory[-1]), axis=1)
                moved[way][seed, k] = np.sqrt(squares.mean())
    return Samples(
        scales=np.array(scales, float),
        score=score,
        distance=distance,
        moved=moved,
        restart_score=_score(own, y, data.task),
        restart_distance=label_distance(own.argmax(axis=-1)) if data.task == "classification" else rms_distance(own),
        num_samples=num_samples,
    )


def _spread(late: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations along, and directions of, the principal components that there are, at most `rank`."""
    if not np.any(late != late[:1]):
        return np.zeros(1), np.zeros((1, late.shape[1]))
    for num in range(min(rank, len(late) - 1, late.shape[1]), 0, -1):
        try:
            found = principal_components(late, num)
        except ValueError as error:  # fewer dimensions than asked for
            if "span fewer than" not in str(error):
                raise
            continue
        return np.sqrt(found.explained * found.total), found.directions
    return np.zeros(1), np.zeros((1, late.shape[1]))


def _score(found: np.ndarray, y: np.ndarray, task: Literal["classification", "regression"]) -> np.ndarray:
    """Accuracy or R^2 of each network."""
    if task == "classification":
        return np.mean(found.argmax(axis=-1) == y, axis=-1)
    wide, targets = found.astype(np.float64), y.reshape(len(y), -1)
    total = np.sum(np.square(targets - targets.mean(axis=0)))
    return 1 - np.sum(np.square(wide - targets), axis=(-2, -1)) / total


def _distances(one: np.ndarray, others: np.ndarray, task: Literal["classification", "regression"]) -> np.ndarray:
    """Of one network's outputs from those of several."""
    if task == "classification":
        return np.mean(others.argmax(axis=-1) != one.argmax(axis=-1), axis=-1)
    return np.sqrt(np.mean(np.square(others.astype(np.float64) - one), axis=(-2, -1)))
