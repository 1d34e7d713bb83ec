"""Are networks with a high barrier on the straight line between them connected by a curve that has none?

Garipov et al. 2018 (1802.10026) and Draxler et al. 2018 (1803.00885) say so: a quadratic Bézier curve or a chain of two
segments, with one free bend between the networks, is enough. They trained ResNets and VGG on CIFAR; here it is MLPs, on
MNIST's IDX files or on scikit-learn's digits where the folder is missing, so shapes are compared with theirs and not
numbers. Curves are fitted between all pairs of restarts, raw and after weight matching, and barriers are measured along
their arc length, on all examples, as on the straight lines beside them.

    python runs/curves.py --data FOLDER
    python runs/curves.py --num-seeds 3 --num-steps 100 --curve-steps 100 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table

from analysis.alignment import match_weights
from analysis.connectivity import Curves, PairBarriers, Shape, curve_points, fit_curves, pair_barriers, straight
from analysis.connectivity.barriers import Route
from analysis.report import write_report
from analysis.report.findings import finding
from analysis.statistics import Estimate, median_over_pairs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import (
    CheckpointSpec,
    DataSpec,
    ModelSpec,
    ObjectiveSpec,
    OptimizerSpec,
    ScheduleSpec,
    SeedSpec,
    Spec,
    TrainSpec,
)
from wspace.symmetry import act
from wspace.train import train
from wspace.tree import Params, pick

Matrix = Float[np.ndarray, "seed seed"]
SHAPES: dict[str, Shape] = {"bezier": "bezier", "polygon": "polygon", "bezier, aligned": "bezier"}
NAMES = {
    "straight": "straight line",
    "straight, aligned": "straight line, weights matched",
    "bezier": "Bézier curve, one bend",
    "polygon": "two segments, one bend",
    "bezier, aligned": "Bézier curve, weights matched",
}


class Ends(NamedTuple):
    """The networks of all pairs i < j, leaves (pair, ...): a is i, b is j."""

    a: Params
    b: Params


def main(
    data: Path = Path("data/mnist10k"),
    num_seeds: int = 6,
    num_steps: int = 2000,
    curve_steps: int = 2000,
    reports: bool = True,
    out: Path = Path("results/curves"),
) -> int:
    """Train restarts, fit curves between all of them, compare barriers.

    Args:
        data: folder with MNIST's IDX files; without it, scikit-learn's digits.
        num_seeds: networks, at least two.
        num_steps: of training.
        curve_steps: of fitting.
        reports: write the run's own report as well.
        out: folder of the run and of comparison.json.
    """
    console = Console()
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits")
    spec = make_spec(data, num_seeds, num_steps)
    with Bar(console, spec.name) as bar:
        run = train(spec, out / spec.name, monitor=bar)
    num = int(run.converged().sum())
    if num < 2:
        console.print(f"{num} of {num_seeds} networks converged: there is no pair to connect", style="red")
        return 1
    ends = pairs_of(run)
    curves: dict[str, Curves] = {}
    for name, shape in SHAPES.items():
        with console.status(f"{NAMES[name]}: compiling") as status:
            curves[name] = fit_curves(
                run.model, run.loss_kind, *ends[name], run.data, shape=shape, l2=run.spec.objective.l2,
                num_steps=curve_steps, batch_size=min(128, len(run.data.x_train)), key=jax.random.key(0),
                progress=lambda text, name=name, status=status: status.update(f"{NAMES[name]}: {text}"),
            )  # fmt: skip
    fitted = ~np.any([curve.diverged for curve in curves.values()], axis=0)
    if not fitted.any():
        console.print("every pair has a curve that diverged", style="red")
        return 1
    with console.status("barriers") as status:
        found = barriers(run, ends, curves, _matrix(num, fitted).astype(bool), status.update)
    table = Table(
        "path", "train barrier", "95 % interval", "test barrier", "95 % interval", "length ÷ straight", "networks"
    )
    numbers: dict[str, dict] = {}
    for name, title in NAMES.items():
        train_barrier, test_barrier = (_median(found[name][loss].chord, "nats") for loss in ("train_loss", "test_loss"))
        detour = np.where(fitted, curves[name].detour if name in curves else 1.0, np.nan)
        longer = _median(_matrix(num, detour))
        table.add_row(title, *_cells(train_barrier), *_cells(test_barrier), f"{longer.value:.3f}", str(num))
        numbers[name] = {
            "train barrier": finding(train_barrier),
            "test barrier": finding(test_barrier),
            "length over distance": finding(longer),
            "pairs": finding(int(fitted.sum()), n=num),
        }
    console.print(table)
    console.print(
        "medians over pairs; barriers are max over alpha of loss - chord, in nats, alpha the share of the arc length; "
        f"networks are resampled, not pairs; {np.sum(~fitted)} of {len(fitted)} pairs left out, their curves diverged"
    )
    comparison = out / "comparison.json"
    comparison.write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if reports:
        console.print(f"report: {write_report(run)}", soft_wrap=True)
    console.print(f"numbers: {comparison}", soft_wrap=True)
    return 0


def make_spec(data: Path, num_seeds: int, num_steps: int) -> Spec:
    """Restarts of one MLP, trained until the train loss is close to 0."""
    mnist = data.is_dir()
    return Spec(
        name="curves-mnist" if mnist else "curves-digits",
        question="Are networks with a high barrier on the straight line between them connected by a curve without one?",
        data=DataSpec(name="idx", path=str(data), split="ordered") if mnist else DataSpec(name="digits"),
        model=ModelSpec(hidden=(128, 128)),
        objective=ObjectiveSpec(l2=1e-4),
        optimizer=OptimizerSpec(name="adam", learning_rate=1e-3),
        schedule=ScheduleSpec(kind="cosine"),
        train=TrainSpec(num_steps=num_steps, batch_size=128),
        checkpoints=CheckpointSpec(schedule="log", num=8),
        seeds=SeedSpec(num=num_seeds),
    )


def pairs_of(run: Run) -> dict[str, Ends]:
    """The ends that each curve of SHAPES connects: all pairs of converged networks, the second one matched or not."""
    params, num = run.params(run.seeds[run.converged()].tolist()), int(run.converged().sum())
    a, b = (jax.tree.map(lambda leaf: np.asarray(leaf)[rows], params) for rows in np.triu_indices(num, 1))  # noqa: B023
    symmetry = run.model.symmetry
    match = match_weights(symmetry, a, b, rng=np.random.default_rng(0))
    raw, aligned = Ends(a, b), Ends(a, jax.tree.map(np.asarray, act(symmetry, match.element, b)))
    return {"bezier": raw, "polygon": raw, "bezier, aligned": aligned}


def barriers(
    run: Run,
    ends: dict[str, Ends],
    curves: dict[str, Curves],
    pairs: Bool[np.ndarray, "seed seed"],
    progress: Callable[[str], None],
) -> dict[str, dict[str, PairBarriers]]:
    """Along the curves and the straight lines between the same ends."""
    num = len(pairs)
    place = np.zeros((num, num), int)
    place[np.triu_indices(num, 1)] = np.arange(num * (num - 1) // 2)

    def routes(i: int) -> dict[str, Callable[[int], Route]]:
        def line(name: str) -> Callable[[int], Route]:
            return lambda j: (tuple(pick(end, place[i, j]) for end in ends[name]), straight)

        def curve(name: str) -> Callable[[int], Route]:
            return lambda j: (curve_points(curves[name], place[i, j], *ends[name]), curves[name].path)

        return {"straight": line("bezier"), "straight, aligned": line("bezier, aligned")} | {
            name: curve(name) for name in curves
        }

    return pair_barriers(
        run.model, run.loss_kind, num, routes, run.data, l2=run.spec.objective.l2, pairs=pairs, progress=progress
    )


def _matrix(num: int, values: np.ndarray) -> Matrix:
    """Symmetric, from one number for each pair i < j; 0 on the diagonal."""
    matrix = np.zeros((num, num))
    matrix[np.triu_indices(num, 1)] = values
    return matrix + matrix.T


def _median(matrix: Matrix, unit: str = "") -> Estimate:
    return median_over_pairs(matrix, rng=np.random.default_rng(0), unit=unit)


def _cells(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.4f}", f"{estimate.ci[0]:.4f} .. {estimate.ci[1]:.4f}" if estimate.ci else "too few"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
