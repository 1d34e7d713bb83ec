"""Has the Hessian as many outlying eigenvalues as there are classes?

Sagun et al. 2018 (1706.04454), Papyan 2019 (1901.08244) and Ghorbani et al. 2019 (1901.10159) find about K, or K - 1, for K
classes, in larger networks and for other data. Here small networks on the first K of scikit-learn's digits, K = 2 to 10,
measured at checkpoints from the start of training on. How many eigenvalues stand apart is decided by the widest gap for
its surroundings, without a word about classes; the null are eigenvalues without any order. They are counted at the first
checkpoint whose median train loss is at most 0.3 ln K, of ln K for guessing: before that few stand apart, and later, where
the examples are fitted, the gap closes again.

    python runs/outliers.py
    python runs/outliers.py --num-seeds 3 --num-steps 60 --classes 2 4 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import json
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from analysis.curvature import Objective, extremes, outliers
from analysis.curvature.spectrum import RANKS, SURROUNDINGS
from analysis.figures import curvature as figures
from analysis.figures import style
from analysis.report import write_report
from analysis.report.findings import Finding, finding
from analysis.statistics import median
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, SeedSpec, Spec, TrainSpec
from wspace.train import train

PART = 0.3  # of ln K, to which the train loss has fallen where outliers are counted


def main(
    num_seeds: int = 16,
    num_steps: int = 300,
    classes: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10),
    reports: bool = False,
    out: Path = Path("results/outliers"),
) -> int:
    """Train on K classes, measure the largest eigenvalues, count those that stand apart.

    Args:
        num_seeds: restarts for each K.
        num_steps: of training.
        classes: the K.
        reports: write the runs' own reports as well.
        out: folder of the runs, of comparison.json and of outliers.svg.
    """
    console, rng = Console(), np.random.default_rng(0)
    found: dict[str, dict[str, Finding]] = {}
    table = Table("classes", "outliers", "K − 1", "gap ÷ next gaps", "p < 0.05", "step", "seeds")
    counts = []
    for k in classes:
        path = write_digits(out / "data" / f"digits-{k}.npz", k)
        with Bar(console, f"{k} classes") as bar:
            run = train(make_spec(path, k, num_seeds, num_steps), out / f"{k}-classes", monitor=bar)
        if not run.converged().any():
            console.print(f"{k} classes: no restart was trained to the end")
            continue
        with console.status(f"eigenvalues, {k} classes") as status:
            row, values = measure(
                run, k, rng, lambda done, num, k=k, s=status: s.update(f"{k} classes: {done} of {num}")
            )
        found[f"{k}_classes"] = row
        counts.append(values)
        cells = [_cell(row["outliers"]), str(k - 1), _cell(row["gap"]), f"{row['clear']['value']:.0%}"]
        table.add_row(str(k), *cells, str(row["step"]["value"]), str(row["outliers"]["n"]))
        if reports:
            write_report(run)
    console.print(table)
    console.print(
        f"outliers: the largest eigenvalues in front of the widest gap; gap: in ln(eigenvalue), over the mean of the next "
        f"{SURROUNDINGS}; medians over restarts, 95 % intervals; p: of so wide a gap among eigenvalues without any order"
    )
    width = max(map(len, counts), default=0)
    padded = np.array([np.pad(row.astype(float), (0, width - len(row)), constant_values=np.nan) for row in counts])
    picture = out / "outliers.svg"
    if len(counts):
        done = np.array([int(name.split("_")[0]) for name in found])
        picture.write_bytes(style.svg(figures.class_counts(done, padded, np.nanmedian(padded, axis=1))))
    numbers_file = out / "comparison.json"
    numbers_file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"numbers: {numbers_file}; picture: {picture}", soft_wrap=True)
    return 0


def write_digits(path: Path, num_classes: int) -> Path:
    """scikit-learn's digits below `num_classes`."""
    x, y = load_digits(return_X_y=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=x[y < num_classes], y=y[y < num_classes])
    return path


def make_spec(path: Path, num_classes: int, num_seeds: int, num_steps: int) -> Spec:
    """Restarts at a constant rate, with checkpoints that are dense at the start."""
    return Spec(
        name=f"{num_classes}-classes",
        question=f"Has the Hessian about {num_classes} outlying eigenvalues for {num_classes} classes?",
        data=DataSpec(name="npz", path=str(path), constant_features="keep"),
        model=ModelSpec(hidden=(32, 32)),
        optimizer=OptimizerSpec(name="adam", learning_rate=3e-3),
        train=TrainSpec(num_steps=num_steps, batch_size=64),
        checkpoints=CheckpointSpec(schedule="log", num=40),
        seeds=SeedSpec(num=num_seeds),
    )


def measure(run: Run, num_classes: int, rng: np.random.Generator, tell) -> tuple[dict[str, Finding], np.ndarray]:
    """Findings at the first checkpoint whose median train loss is at most PART of ln K, and each restart's outliers."""
    losses = np.median(run.metrics["train_loss"][run.converged()], axis=0)
    fallen = np.flatnonzero(losses <= PART * np.log(num_classes))
    at = int(fallen[0]) if len(fallen) else len(losses) - 1
    objective = Objective(run.model, run.loss_kind, run.data, l2=run.spec.objective.l2)
    pairs = extremes(objective, run.params(checkpoint=at), RANKS, 0, rng=rng, tolerance=1e-4, tell=tell)
    apart = outliers(pairs.values)
    row = {
        "outliers": finding(median(apart.count.astype(float), rng=rng)),
        "gap": finding(median(apart.gap, rng=rng)),
        "clear": finding(float(np.mean(apart.p < 0.05)), n=len(apart.p), unit="share"),
        "published": finding(num_classes),
        "step": finding(int(run.checkpoint_steps[at])),
        "train_loss": finding(float(losses[at]), n=len(apart.p), unit="nats"),
        "largest": finding(median(pairs.values[:, 0], rng=rng, unit="nats per weight²")),
        "not_converged": finding(int(np.sum(~pairs.converged)), n=len(apart.p)),
    }
    return row, apart.count


def _cell(item: Finding) -> str:
    ci = f" [{item['ci'][0]:.3g}, {item['ci'][1]:.3g}]" if item["ci"] else ""
    return f"{item['value']:.3g}{ci}"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
