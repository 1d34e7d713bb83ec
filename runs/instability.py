"""From which step on does the order of examples no longer decide where training ends?

Children of one parent follow its init and its order of examples up to step k, then each goes on with an order of its
own. The barrier on the straight line between two children says whether they end in one basin, as far as a straight
line can show it: instability analysis as in Frankle et al. 2020 (1912.05671). Digits, three hidden layers.

    python runs/instability.py
    python runs/instability.py --num-seeds 4 --num-steps 50 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.connectivity import barrier_matrices
from analysis.report import write_report, write_sweep_report
from analysis.statistics import Estimate, median_over_pairs
from wspace import spec as specs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, ModelSpec, ObjectiveSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.sweep import open_sweep, run_sweep


def main(
    num_seeds: int = 8, num_steps: int = 1500, reports: bool = True, out: Path = Path("results/instability")
) -> int:
    """Train the children of every fork, measure all pairs of them, write the reports.

    Args:
        num_seeds: children of each fork.
        num_steps: steps of training.
        reports: write every run's own report as well as the sweep's.
        out: folder of the sweep.
    """
    console, spec = Console(), make_spec(num_seeds, num_steps)
    with Bar(console, spec.name, num_runs=len(specs.grid(spec))) as bar:
        outcomes = run_sweep(spec, out, monitor=bar.of_point)
    for outcome in outcomes:
        if outcome.error:
            console.print(f"{outcome.point.folder} failed: {outcome.error}", style="red", markup=False)
    table = Table("fork step", "train barrier", "95 % interval", "test barrier", "95 % interval", "children")
    runs = open_sweep(out)
    rng = np.random.default_rng(0)
    for values, run in runs:
        if run is None or run.converged().sum() < 2:
            continue
        with console.status(f"lines between the children of step {values['seeds.fork_step']}"):
            train, test = (median_over_pairs(matrix, rng=rng) for matrix in barriers(run))
            if reports:
                write_report(run)
        table.add_row(str(values["seeds.fork_step"]), *_cells(train), *_cells(test), str(train.n))
    console.print(table)
    console.print("median over pairs of max over alpha of loss - chord, in nats; children are resampled, not pairs")
    console.print(f"report: {write_sweep_report(runs, out / 'report')}", soft_wrap=True)
    return int(any(outcome.error for outcome in outcomes))


def make_spec(num_seeds: int, num_steps: int) -> Spec:
    """The sweep over fork steps: 0, and five steps evenly spaced in log(step) up to a third of training."""
    forks = sorted({0, *np.geomspace(1, max(1, num_steps // 3), 5).round().astype(int).tolist()})
    return Spec(
        name="instability",
        question="From which step on does the order of examples no longer decide where training ends?",
        model=ModelSpec(hidden=(64, 64, 64)),
        objective=ObjectiveSpec(l2=1e-4),
        optimizer=OptimizerSpec(name="momentum", learning_rate=0.05),
        schedule=ScheduleSpec(kind="cosine"),
        train=TrainSpec(num_steps=num_steps, batch_size=32),
        checkpoints=CheckpointSpec(schedule="log", num=11),
        seeds=SeedSpec(ids=tuple(range(1, num_seeds + 1)), vary="order", parent=0),
        sweep={"seeds.fork_step": tuple(forks)},
    )


def barriers(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Barriers of the train and test loss above the chord, (seed, seed) in nats, of all pairs of converged children."""
    found = barrier_matrices(run.model, run.loss_kind, run.params(), run.data, path=run.path / "barriers")
    return found["train_loss"].chord, found["test_loss"].chord


def _cells(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.4f}", f"{estimate.ci[0]:.4f} .. {estimate.ci[1]:.4f}" if estimate.ci else "too few"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
