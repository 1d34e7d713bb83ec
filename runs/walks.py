"""Is a path of training more than a random walk?

Antognini & Sohl-Dickstein 2018 (1806.08805): the first principal component of a random walk in many dimensions holds
60.8 % of its variance, 81 % where the walk is anchored at its end, and its components are cosines; neural networks look
much the same, so that such a picture proves little. Here walks are drawn and measured, and the paths of small networks
are tested against walks with the same step norms: trained by SGD at several learning rates and by Adam, on MNIST's IDX
files, or scikit-learn's digits where the folder is missing. The published networks were larger (ResNets on CIFAR).

    python runs/walks.py --data FOLDER
    python runs/walks.py --num-seeds 3 --num-steps 60 --num-walks 19 --num-drawn 3 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import json
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.projection import Centre, compare, cosine_shares, grams, walk
from analysis.report import write_report
from analysis.report.findings import Finding, finding
from analysis.statistics import Estimate, median
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.train import train

OPTIMIZERS = {
    "SGD, rate 0.01": OptimizerSpec(name="sgd", learning_rate=0.01),
    "SGD, rate 0.1": OptimizerSpec(name="sgd", learning_rate=0.1),
    "SGD, rate 0.5": OptimizerSpec(name="sgd", learning_rate=0.5),
    "Adam, rate 0.001": OptimizerSpec(name="adam", learning_rate=1e-3),
}
CENTRES: dict[Centre, str] = {"mean": "about the mean", "final": "anchored at the end"}
LONG, WIDE = 1000, 100_000  # steps and dimensions of the walks that are drawn


def main(
    data: Path = Path("data/mnist10k"),
    num_seeds: int = 8,
    num_steps: int = 2000,
    num_walks: int = 499,
    num_drawn: int = 100,
    reports: bool = True,
    out: Path = Path("results/walks"),
) -> int:
    """Draw walks, train networks, test their spectra.

    Args:
        data: folder with MNIST's IDX files; without it, scikit-learn's digits.
        num_seeds: restarts for each optimizer.
        num_steps: of training.
        num_walks: that each restart is compared with.
        num_drawn: walks for the published shares.
        reports: write the runs' own reports as well.
        out: folder of the runs and of comparison.json.
    """
    console, rng = Console(), np.random.default_rng(0)
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits")
    found: dict[str, dict[str, Finding]] = {}
    table = Table(f"random walks ({LONG} steps, {WIDE:,} dimensions)", "first component", "closed form", "walks")
    with console.status("drawing walks"):
        points = [grams(walk(np.ones((1, LONG)), WIDE, rng=rng)) for _ in range(num_drawn)]
    for centre, published in zip(CENTRES, (0.608, 0.81), strict=True):
        shares = np.array([compare(gram, WIDE, 1, centre=centre, num_walks=1, rng=rng).shares[0, 0] for gram in points])
        share = median(shares, rng=rng, unit="share")
        found[f"walk_{centre}"] = {"share": finding(share), "published": finding(published, unit="share")}
        table.add_row(CENTRES[centre], _cell(share), f"{cosine_shares(1, centre)[0]:.4f}", str(num_drawn))
    console.print(table)
    rows: dict[Centre, list[list[str]]] = {"mean": [], "final": []}
    for name, optimizer in OPTIMIZERS.items():
        folder = name.lower().replace(", rate ", "-")
        spec = make_spec(folder, data, optimizer, num_seeds, num_steps)
        with Bar(console, name) as bar:
            run = train(spec, out / folder, monitor=bar)
        seeds = np.flatnonzero(run.converged())
        if len(seeds) == 0:
            console.print(f"{name}: no restart was trained to the end")
            continue
        for centre in CENTRES:
            row, found[f"{folder}_{centre}"] = _compared(run, seeds, centre, num_walks, rng)
            rows[centre].append([name, *row])
        if reports:
            write_report(run)
    for centre, label in CENTRES.items():
        table = Table("trained by", "first component", "walks", "p", "R²", "walks", "p", title=label)
        for row in rows[centre]:
            table.add_row(*row)
        console.print(table)
    console.print(
        f"{num_seeds} restarts each; shares of the variance and R² with a walk's component: medians over restarts, 95 % "
        f"intervals over restarts; walks: {num_walks} for each; p: two-sided for shares, of so bad a fit for R²"
    )
    numbers_file = out / "comparison.json"
    numbers_file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"numbers: {numbers_file}", soft_wrap=True)
    return 0


def make_spec(name: str, data: Path, optimizer: OptimizerSpec, num_seeds: int, num_steps: int) -> Spec:
    """Restarts at a constant rate, with evenly spaced checkpoints from the start."""
    mnist = data.is_dir()
    return Spec(
        name=name,
        question="Is the path of training more than a random walk?",
        data=DataSpec(name="idx", path=str(data), split="ordered") if mnist else DataSpec(name="digits"),
        model=ModelSpec(hidden=(64, 64)),
        optimizer=optimizer,
        schedule=ScheduleSpec(kind="constant"),
        train=TrainSpec(num_steps=num_steps, batch_size=128 if mnist else 64),
        checkpoints=CheckpointSpec(schedule="linear", num=41),
        seeds=SeedSpec(num=num_seeds),
    )


def _compared(
    run: Run, rows: np.ndarray, centre: Centre, num_walks: int, rng: np.random.Generator
) -> tuple[list[str], dict[str, Finding]]:
    inner = grams(np.asarray(run.theta.oindex[rows]))
    null = compare(inner, run.layout.size, 1, centre=centre, num_walks=num_walks, rng=rng)
    share, fit = median(null.shares[:, 0], rng=rng, unit="share"), median(null.fit[:, 0], rng=rng)
    walks, fits = (float(np.median(values[:, :, 0].mean(axis=1))) for values in (null.walks, null.walks_fit))
    p, p_fit = float(null.p_shares[0]), float(null.p_fit[0])
    findings = {
        "share": finding(share), "walk": finding(walks, n=len(rows), unit="share"), "p": finding(p, n=len(rows)),
        "fit": finding(fit), "walk_fit": finding(fits, n=len(rows)), "p_fit": finding(p_fit, n=len(rows)),
    }  # fmt: skip
    cells = [_cell(share), f"{walks:.3f}", f"{p:.3g}", f"{fit.value:.3f}", f"{fits:.3f}", f"{p_fit:.3g}"]
    return cells, findings


def _cell(estimate: Estimate) -> str:
    ci = f" [{estimate.ci[0]:.3f}, {estimate.ci[1]:.3f}]" if estimate.ci else ""
    return f"{estimate.value:.3f}{ci}"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
