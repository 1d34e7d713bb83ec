"""Barriers between the networks of a population: matrices over pairs, kept on disk while they are computed."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path as Folder
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from analysis.connectivity.line import LOSSES, Barrier, Path, along, straight
from analysis.pairs import pair_rows, square
from analysis.rows import Clock, Row, describe
from analysis.threads import in_threads
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Params, digest, pick

Matrix = Float[np.ndarray, "seed seed"]
Route = tuple[tuple[Any, ...], Path]  # points and path, as `along` takes them
Routes = Callable[[int], Mapping[str, Callable[[int], Route]]]
FIELDS = tuple(field.name for field in dataclasses.fields(Barrier))
ENDS = {"start": 0, "end": -1}


@dataclasses.dataclass(frozen=True)
class PairBarriers:
    """What `Barrier` holds for one pair, for all pairs of a population: symmetric matrices.

    NaN where a pair was left out; on the diagonal 0, alphas included. Positions alpha count from the network of the
    smaller index.

    Attributes:
        chord, chord_alpha, mean, mean_alpha, excess, tolerance, share_above: see `Barrier`.
        ends: mean of the losses at both ends; on the diagonal the network's own loss.
    """

    chord: Matrix
    chord_alpha: Matrix
    mean: Matrix
    mean_alpha: Matrix
    excess: Matrix
    tolerance: Matrix
    share_above: Matrix
    ends: Matrix

    @property
    def top(self) -> Matrix:
        """The highest loss on each path; on the diagonal the network's own loss."""
        return self.ends + self.mean

    @property
    def measured(self) -> Bool[np.ndarray, "seed seed"]:
        """Which pairs were measured; False on the diagonal."""
        return np.isfinite(self.chord) & ~np.eye(len(self.chord), dtype=bool)


def pair_barriers(
    model: Model,
    kind: LossKind,
    num: int,
    routes: Routes,
    data: Dataset,
    *,
    l2: float = 0.0,
    num_alphas: int = 11,
    pairs: Bool[np.ndarray, "seed seed"] | None = None,
    path: Folder | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, PairBarriers]]:
    """Barriers along one or more routes between the networks of every pair, exact on all data, in float64.

    Args:
        model: hashable, with `apply(params, x)`.
        kind: the data loss.
        num: networks, at least two.
        routes: row i -> name -> (j -> the route from network i to network j), asked for i < j; `straight_routes` for
            straight lines.
        data: train and test examples.
        l2: coefficient of the L2 term of train_objective.
        num_alphas: odd; the maxima are refined between these points.
        pairs: which to measure, symmetric; default: all.
        path: folder beside the run, to resume from; needs `settings`.
        settings: what the routes depend on, as JSON: with the model, the data and the options it decides whether rows on
            disk are those that are asked for.
        progress: told how many pairs are done and how long the others take.

    Returns:
        name -> loss (train_loss, test_loss, train_objective) -> matrices.

    Raises:
        ValueError: fewer than two networks, `pairs` has another shape, is not symmetric or names none, a path comes
            without settings, or a loss is not finite.
        StoreError: the folder cannot be written or holds something else.
    """
    if num < 2:
        raise ValueError(f"barriers take at least two networks, got {num}")
    wanted = ~np.eye(num, dtype=bool) if pairs is None else np.asarray(pairs, bool)
    if wanted.shape != (num, num) or np.any(wanted != wanted.T) or not np.any(np.triu(wanted, 1)):
        raise ValueError(f"pairs of shape {wanted.shape}: a symmetric ({num}, {num}) matrix with a pair is expected")
    if path is not None and settings is None:
        raise ValueError("a path takes settings: what the routes depend on, to know rows of others from these")

    def compute(i: int) -> Row:
        if not wanted[i, i + 1 :].any():
            return {}
        ways = routes(i)

        def lines(j: int) -> dict[str, float]:
            found = {}
            for name, way in ways.items():
                points, route = way(j)
                line = along(model, kind, points, data, path=route, l2=l2, num_alphas=num_alphas)
                for loss, barrier in line.barriers.items():
                    found |= {f"{name}/{loss}/{field}": getattr(barrier, field) for field in FIELDS}
                    found |= {f"{name}/{loss}/{end}": line.values[loss][at] for end, at in ENDS.items()}
            return found

        columns = [j for j in range(i + 1, num) if wanted[i, j]]
        every = in_threads(lines, columns)
        row = {key: np.full(num - 1 - i, np.nan) for key in every[0]}
        for j, found in zip(columns, every, strict=True):
            for key, value in found.items():
                row[key][j - i - 1] = value
        return row

    name = "" if path is None else describe(model)
    whole = {
        "model": name, "loss": kind, "networks": num, "data": data.hash, "l2": l2, "alphas": num_alphas,
        "pairs": "all" if pairs is None else np.packbits(np.triu(wanted, 1)).tobytes().hex(),
    }  # fmt: skip
    clock, total = Clock(np.triu(wanted, 1).sum(axis=1)[:-1]), int(np.triu(wanted, 1).sum())

    def tell(done: int, of: int) -> None:
        del of
        progress(f"barriers of {clock.done(done)} of {total} pairs, about {clock.left(done):.0f} s left")

    rows = pair_rows(path, whole | dict(settings or {}), num, clock.timed(compute), tell)
    names = dict.fromkeys(key.partition("/")[0] for row in rows for key in row)
    return {name: {loss: _matrices(rows, f"{name}/{loss}", num) for loss in LOSSES} for name in names}


def straight_routes(params: Params) -> Routes:
    """The straight lines between the networks of a stack, under the name `raw`."""
    return lambda i: {"raw": lambda j: ((pick(params, i), pick(params, j)), straight)}


def barrier_matrices(
    model: Model, kind: LossKind, params: Params, data: Dataset, *, l2: float = 0.0, num_alphas: int = 11,
    pairs: Bool[np.ndarray, "seed seed"] | None = None, path: Folder | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, PairBarriers]:  # fmt: skip
    """Barriers on the straight lines between all networks of a stack, loss by loss: see `pair_barriers`."""
    num = jax.tree.leaves(params)[0].shape[0]
    found = pair_barriers(
        model, kind, num, straight_routes(params), data, l2=l2, num_alphas=num_alphas, pairs=pairs, path=path,
        settings={"params": digest(params)}, progress=progress,
    )  # fmt: skip
    return found["raw"]


def random_pairs(num: int, num_pairs: int, *, rng: np.random.Generator) -> Bool[np.ndarray, "seed seed"]:
    """A symmetric mask of `num_pairs` distinct pairs of `num` networks, drawn without replacement.

    Raises:
        ValueError: there are not so many pairs, or none is asked for.
    """
    first, second = np.triu_indices(num, 1)
    if not 1 <= num_pairs <= len(first):
        raise ValueError(f"num_pairs = {num_pairs}: {num} networks have {len(first)} pairs")
    chosen = rng.choice(len(first), num_pairs, replace=False)
    mask = np.zeros((num, num), bool)
    mask[first[chosen], second[chosen]] = mask[second[chosen], first[chosen]] = True
    return mask


def _matrices(rows: list[Row], prefix: str, num: int) -> PairBarriers:
    filled = [row or {f"{prefix}/{key}": np.full(num - 1 - i, np.nan) for key in (*FIELDS, *ENDS)}
              for i, row in enumerate(rows)]  # fmt: skip
    own = np.full(num, np.nan)
    for i, row in enumerate(filled):
        start, end = row[f"{prefix}/start"], row[f"{prefix}/end"]
        if np.isfinite(start).any():
            own[i] = start[np.isfinite(start)][0]
        own[i + 1 :] = np.where(np.isnan(own[i + 1 :]), end, own[i + 1 :])
    matrices = {field: square(filled, f"{prefix}/{field}") for field in FIELDS}
    ends = np.where(np.isfinite(matrices["chord"]), np.add.outer(own, own) / 2, np.nan)
    np.fill_diagonal(ends, own)
    return PairBarriers(**matrices, ends=ends)
