"""Do networks sampled around one restart differ in function as independent restarts do?

Fort, Hu & Lakshminarayanan 2019 (1912.02757): restarts are functions of their own, while samples around one restart, in
random directions or from Gaussians fitted to its trajectory, stay with its function although their accuracy is as good.
Published for convolutional networks on CIFAR and ImageNet, as figures; here fully connected ones on MNIST's IDX files, or
scikit-learn's digits where the folder is missing. The measure is theirs: the share of test examples on which two networks
predict different classes, divided by the share that the second gets wrong. Farther samples differ more and are worse, so
the second table compares them with restarts at equal accuracy, and at equal disagreement.

    python runs/functions.py --data FOLDER
    python runs/functions.py --num-seeds 3 --num-steps 60 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.report import write_report
from analysis.report.findings import finding
from analysis.similarity import EqualScore, Samples, at_equal_distance, at_equal_score, kept_steps, samples_around
from analysis.similarity.samples import RANK, WAYS, Draw, direction
from analysis.statistics import Estimate, median, median_over_pairs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.train import train

KEPT = (0.999, 0.99)  # random steps are the longest that keep these shares of the restart's train accuracy
SPREADS = tuple(np.geomspace(0.5, 64, 15).tolist())  # multiples of the spread of late checkpoints; 1 among them
LENGTHS = tuple(np.geomspace(0.02, 1.0, 15).tolist())  # of random steps, relative to the weights
MARGINS = (0.0, 0.001, 0.005, 0.01)  # of accuracy that samples may give up
GAUSSIANS = {
    "diagonal": "diagonal Gaussian",
    "low_rank": f"Gaussian of rank {RANK}",
    "subspace": f"Gaussian in {RANK} random directions",
}


def main(
    data: Path = Path("data/mnist10k"),
    num_seeds: int = 8,
    num_steps: int = 2000,
    num_samples: int = 10,
    reports: bool = True,
    out: Path = Path("results/functions"),
) -> int:
    """Train restarts, sample around each, compare what they predict.

    Args:
        data: folder with MNIST's IDX files; without it, scikit-learn's digits.
        num_seeds: restarts.
        num_steps: of training.
        num_samples: networks around each restart, in each way and at each distance.
        reports: write the run's own report as well.
        out: folder of the run and of comparison.json.
    """
    console = Console()
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits")
    spec = make_spec(data, num_seeds, num_steps)
    with Bar(console, spec.name) as bar:
        run = train(spec, out / "run", monitor=bar)
    if run.converged().sum() < 2:
        console.print("fewer than two restarts were trained to the end: nothing to compare")
        return 1
    with console.status("samples") as status:
        samples = sample(run, num_samples, lambda text: status.update(f"samples around {text}"))
    rng = np.random.default_rng(1)
    rows, equal = compare(samples, rng), compare_equal(samples, rng)
    _print(console, samples, rows, equal)
    found = {name: {key: finding(value) for key, value in row.items()} for name, row in rows.items()}
    numbers_file = out / "comparison.json"
    text = json.dumps(found | {"equal": _equal_findings(equal)}, indent=2, allow_nan=False)
    numbers_file.write_text(text + "\n", encoding="utf-8")
    report = f"; report: {write_report(run)}" if reports else ""
    console.print(f"numbers: {numbers_file}{report}", soft_wrap=True)
    return 0


def make_spec(data: Path, num_seeds: int, num_steps: int) -> Spec:
    """Restarts with enough checkpoints late in training to fit Gaussians to."""
    mnist = data.is_dir()
    return Spec(
        name="functions",
        question="Do networks around one restart differ in function as independent restarts do?",
        data=DataSpec(name="idx", path=str(data), split="ordered") if mnist else DataSpec(name="digits"),
        model=ModelSpec(hidden=(128, 128)),
        optimizer=OptimizerSpec(name="adam", learning_rate=1e-3),
        schedule=ScheduleSpec(kind="constant"),
        train=TrainSpec(num_steps=num_steps, batch_size=128 if mnist else 64),
        checkpoints=CheckpointSpec(schedule="linear", num=41),
        seeds=SeedSpec(num=num_seeds),
    )


def sample(run: Run, num_samples: int, progress: Callable[[str], None]) -> Samples:
    """Around every restart that was trained to its end; late checkpoints are those of the second half of training."""
    rows, steps = np.flatnonzero(run.converged()), run.checkpoint_steps
    late = np.asarray(run.theta.oindex[rows, np.flatnonzero(steps >= steps[-1] / 2)])
    ways: dict[str, Draw] = {
        **WAYS,
        "direction": functools.partial(direction, layout=run.layout),
        "kept": kept_steps(run.model, run.layout, run.data),
    }
    given_up = sorted(1 - kept for kept in KEPT)
    scales = dict.fromkeys(WAYS, SPREADS) | {"direction": LENGTHS, "kept": tuple(given_up)}
    return samples_around(
        run.model, run.layout, late, run.data, ways=ways, scales=scales, num_samples=num_samples,
        rng=np.random.default_rng(0), progress=progress,
    )  # fmt: skip


def compare(samples: Samples, rng: np.random.Generator) -> dict[str, dict[str, Estimate]]:
    """Accuracy, disagreement, disagreement / error and divergence: of other restarts, and of samples as they come."""
    assert samples.divergence is not None
    assert samples.restart_divergence is not None
    found = {
        "another restart": {
            "accuracy": median(samples.restart_score, rng=rng, unit="share"),
            "disagreement": median_over_pairs(samples.restart_distance, rng=rng, unit="share"),
            "ratio": median_over_pairs(samples.restart_normalised, rng=rng),
            "divergence": median_over_pairs(samples.restart_divergence, rng=rng, unit="nats"),
        }
    }
    taken = [(f"random step keeping {kept:.1%}", "kept", 1 - kept) for kept in KEPT]
    taken += [(label, way, 1.0) for way, label in GAUSSIANS.items()]
    for label, way, scale in taken:
        at = int(np.argmin(np.abs(samples.scales[way] - scale)))
        found[f"{label} around the restart"] = {
            "accuracy": median(samples.score[way][:, at], rng=rng, unit="share"),
            "disagreement": median(samples.distance[way][:, at], rng=rng, unit="share"),
            "ratio": median(samples.normalised[way][:, at], rng=rng),
            "divergence": median(samples.divergence[way][:, at], rng=rng, unit="nats"),
        }
    return found


def compare_equal(samples: Samples, rng: np.random.Generator) -> dict[str, tuple[EqualScore, Estimate | None]]:
    """Samples at any distance against other restarts: at equal accuracy, and what they lose at equal disagreement."""
    return {
        label: (
            at_equal_score(samples, way, margins=MARGINS, rng=rng),
            at_equal_distance(samples, way, rng=rng).median,
        )
        for way, label in (GAUSSIANS | {"direction": "random step"}).items()
    }


def _equal_findings(equal: dict[str, tuple[EqualScore, Estimate | None]]) -> dict[str, dict[str, Any]]:
    """What is not available is left out; `beyond` counts restarts whose samples stay as good as far as they were drawn."""
    found: dict[str, dict[str, Any]] = {}
    for label, (score, lost) in equal.items():
        found[label] = {
            f"giving up {margin:.1%}": finding(ratio) | {"beyond": int(beyond.sum())}
            for margin, ratio, beyond in zip(score.margins, score.ratio, score.beyond.T, strict=True)
            if ratio is not None
        }
        if lost is not None:
            found[label]["lost at equal disagreement"] = finding(lost)
    return found


def _print(
    console: Console, samples: Samples, rows: dict[str, dict[str, Estimate]],
    equal: dict[str, tuple[EqualScore, Estimate | None]],
) -> None:  # fmt: skip
    table = Table("second network", "test accuracy", "disagreement", "disagreement ÷ error")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row[key]) for key in ("accuracy", "disagreement", "ratio")))
    console.print(table)
    console.print(
        f"{len(samples.still)} restarts, {samples.num_samples} samples around each; medians over restarts (of each one's "
        "mean over samples) or over pairs; 95 % intervals resample restarts"
    )
    if samples.still.any():
        console.print(
            f"{samples.still.sum()} of the restarts do not move late in training: nothing is spread around them"
        )
    table = Table(
        "samples, disagreement ÷ that of restarts", *(f"−{margin:.1%}" for margin in MARGINS), "accuracy lost"
    )
    for label, (score, lost) in equal.items():
        cells = [
            ("≥ " if 2 * beyond.sum() >= len(beyond) else "") + _cell(ratio)
            for ratio, beyond in zip(score.ratio, score.beyond.T, strict=True)
        ]
        table.add_row(label, *cells, _cell(lost))
    console.print(table)
    console.print(
        "the farthest samples that are as accurate as their restart, or give up so much test accuracy (≥: all that were "
        "drawn are as good); loss: accuracy that samples have lost where they disagree with their restart as two restarts do"
    )


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "none"
    ci = f" [{estimate.ci[0]:.4f}, {estimate.ci[1]:.4f}]" if estimate.ci else ""
    return f"{estimate.value:.4f}{ci}"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
