"""How does the number of minima of an XOR network depend on its hidden units and on the L2 penalty?

Mehta et al. 2018 (1804.02411): the number of minima grows rapidly with hidden units and shrinks as the penalty grows.
Published for networks of one hidden layer on the four XOR points, counted by basin-hopping; here a thousand restarts of
tanh networks with two softmax outputs on the same four points, trained by Adam, polished to stationarity in double
precision, certified by their Hessians and told apart modulo permutations and signs of hidden units. The points have
symmetries of their own (swap and flip the inputs), so that minima come in sets of equal loss; the second count, by level
of the loss, takes each set as one.

    python runs/xor_minima.py
    python runs/xor_minima.py --num-seeds 50 --num-steps 60 --units 2 3 --penalties 1e-3 1e-2 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import json
import time
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.census import Census, census
from analysis.curvature import Objective
from analysis.report import write_report
from analysis.report.findings import Finding, finding
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
from wspace.train import train

SAME_LEVEL = 1e-6  # objectives that differ by less, relatively, are one level


def main(
    num_seeds: int = 1000,
    num_steps: int = 1000,
    units: tuple[int, ...] = (2, 3, 4, 5, 6),
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1),
    reports: bool = True,
    out: Path = Path("results/xor_minima"),
) -> int:
    """Train, polish, certify and count, for every number of units and every penalty.

    Args:
        num_seeds: restarts for each combination.
        num_steps: of training, before polishing.
        units: hidden units.
        penalties: coefficients of the L2 term.
        reports: write the report of the first run with 3 units, or of the first of all.
        out: folder of the data, the runs and of comparison.json.
    """
    console = Console()
    path = write_points(out / "data" / "xor.npz")
    found: dict[str, dict[str, Finding]] = {}
    rows: dict[int, list[str]] = {}
    chosen: Run | None = None
    for num_units in units:
        for l2 in penalties:
            spec = make_spec(path, num_units, l2, num_seeds, num_steps)
            began = time.monotonic()
            with Bar(console, spec.name) as bar:
                run = train(spec, out / spec.name, monitor=bar)
            if not run.converged().any():
                console.print(f"{spec.name}: no restart was trained to the end")
                continue
            with console.status(spec.name) as status:
                result = count(run, lambda text, status=status, name=spec.name: status.update(f"{name}: {text}"))
            found[spec.name] = describe(result) | {"seconds": finding(time.monotonic() - began, n=num_seeds)}
            rows.setdefault(num_units, []).append(_cell(found[spec.name]))
            if chosen is None or (num_units == 3 and chosen.spec.model.hidden != (3,)):
                chosen = run
    table = Table("hidden units", *(f"L2 {l2:g}" for l2 in penalties))
    for num_units, cells in rows.items():
        table.add_row(str(num_units), *cells)
    console.print(table)
    console.print(
        f"distinct minima / levels of the objective, of {num_seeds} restarts; * not all restarts are certified; in brackets "
        "the estimate of all minima, unseen ones too, and its 95 % interval"
    )
    numbers_file = out / "comparison.json"
    numbers_file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    report = f"; report: {write_report(chosen)}" if reports and chosen is not None else ""
    console.print(f"numbers: {numbers_file}{report}", soft_wrap=True)
    return 0


def write_points(path: Path) -> Path:
    """The four points of XOR as train and as test set."""
    x, y = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array([0, 1, 1, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def make_spec(path: Path, num_units: int, l2: float, num_seeds: int, num_steps: int) -> Spec:
    """Restarts of a tanh network with one hidden layer, on all four points at every step."""
    return Spec(
        name=f"{num_units}-units-l2-{l2:g}",
        question="How many minima has an XOR network, and how does L2 change their number?",
        data=DataSpec(name="npz", path=str(path)),
        model=ModelSpec(hidden=(num_units,), activation="tanh", init="glorot"),
        objective=ObjectiveSpec(l2=l2),
        optimizer=OptimizerSpec(name="adam", learning_rate=1e-2),
        schedule=ScheduleSpec(kind="cosine"),
        train=TrainSpec(num_steps=num_steps, batch_size=0),
        checkpoints=CheckpointSpec(schedule="log", num=12),
        seeds=SeedSpec(num=num_seeds),
    )


def count(run: Run, progress=lambda text: None) -> Census:
    """The census of a run's restarts on its training objective."""
    objective = Objective(run.model, run.loss_kind, run.data, l2=run.spec.objective.l2)
    return census(objective, run.params(), symmetry=run.model.symmetry, rng=np.random.default_rng(0), progress=progress)


def describe(result: Census) -> dict[str, Finding]:
    """Counts of certificates, of distinct minima and of levels, and what was not found."""
    num, certified = len(result.certificates.labels), len(result.certified)
    found = {label.replace(" ", "_"): finding(k, n=num) for label, k in result.certificates.counts().items()}
    found["minima"] = finding(result.num_minima, n=certified)
    if result.unseen is None or result.coverage is None or result.shares is None:
        return found
    levels = 1 + int(np.sum(np.diff(result.objectives) > SAME_LEVEL * np.abs(result.objectives[:-1])))
    return found | {
        "levels": finding(levels, n=certified),
        "unseen": finding(result.unseen),
        "coverage": finding(result.coverage),
        "lowest": finding(float(result.objectives[0]), n=certified, unit="nats"),
        "highest": finding(float(result.objectives[-1]), n=certified, unit="nats"),
        "largest_basin": finding(float(result.shares.share[0]), n=certified, unit="share"),
    }


def _cell(row: dict[str, Finding]) -> str:
    if "levels" not in row:
        return "none certified"
    ci = row["unseen"]["ci"]
    interval = f" {ci[0]:.0f} to {ci[1]:.0f}" if ci else ""
    star = "*" if row["not_converged"]["value"] else ""
    return f"{row['minima']['value']}{star} / {row['levels']['value']} [{row['unseen']['value']:.0f}{interval}]"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
