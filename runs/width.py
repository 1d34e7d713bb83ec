"""Does the barrier between restarts fall as networks grow wider, and how much of it is mere relabelling?

A sweep over the width of two hidden layers on scikit-learn's digits, 8 to 512 units. At every width the barriers of the
train and test loss on the straight lines between all restarts: as trained, aligned by weight matching, and relabelled at
random (the null). Entezari et al. 2022 (2110.06296) conjecture that wide networks have none modulo relabelling.

    python runs/width.py
    python runs/width.py --num-seeds 3 --num-steps 50 --widths 8 16 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.alignment import match_pairs, match_weights, random_relabelling
from analysis.connectivity import pair_barriers, straight
from analysis.figures import style
from analysis.report import write_sweep_report
from analysis.report.sweep import Extra
from analysis.statistics import Estimate, median_over_pairs
from wspace import spec as specs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, ModelSpec, ObjectiveSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.sweep import open_sweep, run_sweep
from wspace.symmetry import act
from wspace.tree import digest, pick

WAYS = {"raw": "as trained", "aligned": "aligned", "random": "relabelled at random"}
NUM_RESTARTS = 4  # of the matcher


def main(
    num_seeds: int = 8,
    num_steps: int = 2000,
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512),
    out: Path = Path("results/width"),
) -> int:
    """Train every width, measure all pairs, write the sweep's report with the barriers in it.

    Args:
        num_seeds: restarts at each width.
        num_steps: of training.
        widths: units of each of the two hidden layers.
        out: folder of the sweep.
    """
    console, spec = Console(), make_spec(num_seeds, num_steps, widths)
    with Bar(console, spec.name, num_runs=len(specs.grid(spec))) as bar:
        outcomes = run_sweep(spec, out, monitor=bar.of_point)
    for outcome in outcomes:
        if outcome.error:
            console.print(f"{outcome.point.folder} failed: {outcome.error}", style="red", markup=False)
    runs = open_sweep(out)
    measured = []
    for values, run in runs:
        with console.status(f"barriers at width {values['model.hidden'][0]}"):
            measured.append(barriers(run) if run is not None and run.converged().sum() >= 2 else {})
    table = Table("width", "barrier of the loss", *WAYS.values(), "restarts")
    for (values, _), found in zip(runs, measured, strict=True):
        for split in ("train", "test") if found else ():
            cells = [_cell(found[split, way]) for way in WAYS]
            table.add_row(str(values["model.hidden"][0]), split, *cells, str(found[split, "raw"].n))
    console.print(table)
    console.print("median over pairs of max over alpha of loss - chord, nats; restarts are resampled, not pairs")
    extras = [
        Extra(
            f"{split}-barrier",
            f"{split.capitalize()} barrier",
            f"median barrier of the {split} loss",
            {label: [found.get((split, way)) for found in measured] for way, label in WAYS.items()},
            "Median over all pairs of restarts of the barrier above the chord. Upright bars: intervals over restarts.",
            {WAYS["raw"]: style.INIT, WAYS["aligned"]: style.END, WAYS["random"]: style.TRAVELLED},
        )
        for split in ("train", "test")
    ]
    console.print(f"report: {write_sweep_report(runs, out / 'report', extras=extras)}", soft_wrap=True)
    return int(any(outcome.error for outcome in outcomes))


def make_spec(num_seeds: int, num_steps: int, widths: tuple[int, ...]) -> Spec:
    """The sweep over widths."""
    return Spec(
        name="width",
        question="Does the barrier between restarts fall as networks grow wider?",
        model=ModelSpec(hidden=(widths[0], widths[0])),
        objective=ObjectiveSpec(l2=1e-4),
        optimizer=OptimizerSpec(name="adam", learning_rate=3e-3),
        schedule=ScheduleSpec(kind="cosine"),
        train=TrainSpec(num_steps=num_steps, batch_size=64),
        checkpoints=CheckpointSpec(schedule="log", num=11),
        seeds=SeedSpec(num=num_seeds),
        sweep={"model.hidden": tuple((width, width) for width in widths)},
    )


def barriers(run: Run) -> dict[tuple[str, str], Estimate]:
    """(split, way) -> median barrier above the chord over all pairs of converged restarts, nats."""
    params, symmetry = run.params(), run.model.symmetry
    num = len(jax.tree.leaves(params)[0])

    def matcher(group, reference, moved):
        return match_weights(group, reference, moved, rng=np.random.default_rng(0), num_restarts=NUM_RESTARTS)

    matches = match_pairs(symmetry, params, matcher=matcher, name=f"weights, {NUM_RESTARTS} restarts")
    relabelled = random_relabelling(symmetry, params, rng=np.random.default_rng(1))[1]

    def routes(i: int):
        a = pick(params, i)
        return {
            "raw": lambda j: ((a, pick(params, j)), straight),
            "aligned": lambda j: ((a, act(symmetry, matches.element[i, j], pick(params, j))), straight),
            "random": lambda j: ((a, pick(relabelled, j)), straight),
        }

    found = pair_barriers(
        run.model, run.loss_kind, num, routes, run.data, path=run.path / "barriers",
        settings={"params": digest(params), "matches": digest(matches.element)},
    )  # fmt: skip
    return {
        (split, way): median_over_pairs(found[way][f"{split}_loss"].chord, rng=np.random.default_rng(0), unit="nats")
        for split in ("train", "test")
        for way in WAYS
    }


def _cell(estimate: Estimate) -> str:
    ci = f" [{estimate.ci[0]:.3f}, {estimate.ci[1]:.3f}]" if estimate.ci else ""
    return f"{estimate.value:.3f}{ci}"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
