"""What several sections of one report need, computed once for each run."""

import contextlib
import weakref
import zlib

import jax
import numpy as np

from analysis.alignment import match_weights
from analysis.alignment.study import NUM_RESTARTS, Study, affordable_seeds, study
from analysis.connectivity import PairBarriers, barrier_matrices
from analysis.landscape import Surface, common_reach, evaluate, grid, plane_through
from analysis.report.section import Tell
from wspace.objective import work_per_example
from wspace.run import Run
from wspace.symmetry import act, act_on_theta
from wspace.tree import Params, pick

EQUAL = 1e-6  # of the sum of two networks' lengths: closer ones are the same network up to rounding
PLANES = {"raw": "as trained", "aligned": "aligned"}
MOST_POINTS, FEWEST_POINTS = 51, 15  # along each axis of a plane
PLANE_FLOPS = 2e12  # what one surface may cost: a quarter of a minute

MOST_VALUES = 2**26  # of trajectories held in memory at once: a quarter of a gigabyte
MOST_CHECKPOINTS = 101  # of trajectories held; of more, as many evenly chosen ones

_surfaces: weakref.WeakKeyDictionary[Run, dict[str, Surface]] = weakref.WeakKeyDictionary()
_studies: weakref.WeakKeyDictionary[Run, Study] = weakref.WeakKeyDictionary()


def converged_params(run: Run) -> tuple[list[int], Params]:
    """Ids and stacked params of all seeds that were trained to the end."""
    ids = run.seeds[run.converged()].tolist()
    return ids, run.params(ids)


def as_images(run: Run, values: np.ndarray) -> np.ndarray | None:
    """(..., *input shape) as (..., height, width), or (..., height, width, 3) in colour; None where inputs are no images.

    Of other numbers of channels than 1 and 3 it is the mean over channels.
    """
    shape = run.data.input_shape
    lead = values.shape[: values.ndim - len(shape)] if values.shape[-len(shape) :] == shape else values.shape[:-1]
    if len(shape) not in (2, 3) or min(shape[:2]) < 2:
        return None
    images = values.reshape(*lead, *shape)
    return by_channels(images) if len(shape) == 3 else images


def by_channels(images: np.ndarray) -> np.ndarray:
    """(..., height, width, channel) as it is drawn: three channels are colours, of others the mean."""
    return images if images.shape[-1] == 3 else images.mean(axis=-1)


def channels(run: Run) -> int:
    """Channels of the images that the inputs are; 1 where they have no such axis."""
    return run.data.input_shape[2] if len(run.data.input_shape) == 3 else 1


def all_equal(params: Params) -> bool:
    """Whether all stacked networks have the same weights."""
    return all(np.all(leaf == leaf[:1]) for leaf in jax.tree.leaves(params))


def alignment_study(run: Run, tell: Tell) -> Study:
    """The alignment of a run's converged seeds with its nulls and barriers; its rows are kept beside the run.

    Args:
        run: a model with hidden units, at least two converged seeds, not all equal.
        tell: takes lines about what is being computed.
    """
    if run not in _studies:
        ids, params = converged_params(run)
        _studies[run] = study(
            run.model, run.model.symmetry, run.loss_kind, params, run.data,
            rng=np.random.default_rng(zlib.crc32(b"alignment")), init=run.params(ids, 0), l2=run.spec.objective.l2,
            path=run.path / "alignment", progress=tell,
        )  # fmt: skip
    return _studies[run]


def trajectories(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Trajectories that fit into memory: positions of seeds, steps, positions of checkpoints, (seed, checkpoint, param).

    All converged seeds at all checkpoints, unless that were more than MOST_VALUES or MOST_CHECKPOINTS.
    """
    rows, num = np.flatnonzero(run.converged()), min(len(run.checkpoint_steps), MOST_CHECKPOINTS)
    at = np.linspace(0, len(run.checkpoint_steps) - 1, num).round().astype(int)
    few = rows[: max(1, MOST_VALUES // (num * run.layout.size))]
    return few, run.checkpoint_steps[at], at, np.asarray(run.theta.oindex[few, at])


def labelled(run: Run, theta: np.ndarray, tell: Tell) -> dict[str, np.ndarray]:
    """The first converged seeds' trajectories as trained, and moved as a whole by what aligns their ends to the medoid."""
    ways = {"raw": theta}
    if run.model.symmetry.layers and not all_equal(run.params()):
        element = alignment_study(run, tell).population.element[: len(theta)]
        ways["aligned"] = act_on_theta(run.model.symmetry, run.layout, element, theta)
    return ways


def population_barriers(run: Run, tell: Tell) -> tuple[list[int], Params, dict[str, dict[str, PairBarriers]]]:
    """The seeds whose pairs are measured: ids, stacked params, and way -> loss -> barriers on the straight lines.

    With hidden units the ways are those of `Study.barriers`; without, `raw` alone.
    """
    (ids, params), barriers = converged_params(run), None
    if run.model.symmetry.layers:
        result = alignment_study(run, tell)
        rows, barriers = result.rows, result.barriers
    else:
        rows = np.arange(min(len(ids), affordable_seeds(forward_flops(run))))
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], params)
    if barriers is None:
        l2, path = run.spec.objective.l2, run.path / "barriers"
        barriers = {"raw": barrier_matrices(run.model, run.loss_kind, some, run.data, l2=l2, path=path, progress=tell)}
    return [ids[row] for row in rows], some, barriers


def restart_surfaces(run: Run, tell: Tell) -> dict[str, Surface]:
    """Train and test loss on the planes through the first three restarts, as in PLANES; kept beside the run.

    All planes have the same extent in distance. None with fewer than three restarts or where they lie on one line; no
    aligned one without hidden units, or where alignment brings them onto one line.
    """
    if run not in _surfaces:
        _surfaces[run] = _evaluated(run, tell)
    return _surfaces[run]


def forward_flops(run: Run, num_examples: int | None = None) -> float:
    """What a forward pass of one network takes, on all examples of train and test or on this many."""
    num = len(run.data.x_train) + len(run.data.x_test) if num_examples is None else num_examples
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    return num * work_per_example(run.model, params, run.data.x_train.shape[1:])


def plane_points(run: Run) -> int:
    """Points along each axis of a plane, odd, that cost at most PLANE_FLOPS."""
    points = int(np.sqrt(PLANE_FLOPS / forward_flops(run)))
    return int(np.clip(points - 1 + points % 2, FEWEST_POINTS, MOST_POINTS))


def _evaluated(run: Run, tell: Tell) -> dict[str, Surface]:
    ids = run.seeds[run.converged()].tolist()[:3]
    if len(ids) < 3:
        return {}
    names, params = [f"seed {seed}" for seed in ids], run.params(ids)
    some = [pick(params, i) for i in range(3)]
    threes = {"raw": some}
    if run.model.symmetry.layers:
        symmetry, rest = run.model.symmetry, jax.tree.map(lambda leaf: np.asarray(leaf)[1:], params)
        match = match_weights(symmetry, some[0], rest, rng=np.random.default_rng(0), num_restarts=NUM_RESTARTS)
        moved = act(symmetry, match.element, rest)
        threes["aligned"] = [some[0], pick(moved, 0), pick(moved, 1)]
    planes = {}
    for way, three in threes.items():
        with contextlib.suppress(ValueError):  # networks that are equal, or on one line, span no plane
            planes[way] = plane_through(*three, names=names)
    if "raw" not in planes:
        return {}
    half, num = common_reach(list(planes.values())), plane_points(run)
    return {
        way: evaluate(
            run.model, run.loss_kind, plane, grid(plane, num, half / plane.lengths), run.data,
            metrics=("train_loss", "test_loss"), path=run.path / "landscape",
            progress=lambda text, way=way: tell(f"plane, {PLANES[way]}: {text}"),
        )
        for way, plane in planes.items()
    }  # fmt: skip
