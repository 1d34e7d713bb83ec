"""Do networks sampled around one restart differ in function as independent restarts do?

Fort, Hu & Lakshminarayanan 2019 (1912.02757): restarts are functions of their own, while samples around one restart, in
random directions or from Gaussians fitted to its trajectory, stay with its function although their accuracy is as good.
Published for convolutional networks on CIFAR and ImageNet, as figures; here fully connected ones on MNIST's IDX files, or
scikit-learn's digits where the folder is missing. The measure is theirs: the share of test examples on which two networks
predict different classes, divided by the share that the second gets wrong.

    python runs/functions.py --data FOLDER
    python runs/functions.py --num-seeds 3 --num-steps 60 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.landscape import random_directions
from analysis.projection import principal_components
from analysis.report import write_report
from analysis.report.findings import finding
from analysis.statistics import Estimate, median, median_over_pairs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.train import train
from wspace.tree import Params, pick

KEPT = (0.999, 0.99)  # random steps are the longest that keep these shares of the restart's train accuracy
STEPS = np.geomspace(0.01, 2.0, 24)  # relative lengths of a random step that are tried
RANK = 5  # of the low-rank Gaussian

Predict = Callable[[Params, np.ndarray], np.ndarray]
Way = Callable[[Run, int, Params, int, Predict, np.random.Generator], Params]


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
        num_samples: networks around each restart, in each way.
        reports: write the run's own report as well.
        out: folder of the run and of comparison.json.
    """
    console = Console()
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits")
    spec = make_spec(data, num_seeds, num_steps)
    with Bar(console, spec.name) as bar:
        run = train(spec, out / "run", monitor=bar)
    rows = np.flatnonzero(run.converged())
    if len(rows) < 2:
        console.print("fewer than two restarts were trained to the end: nothing to compare")
        return 1
    predict, x, y = _predictor(run), run.data.x_test, run.data.y_test
    ends = run.params()
    own = predict(ends, x)
    rng = np.random.default_rng(0)
    table = Table("second network", "test accuracy", "disagreement", "disagreement ÷ error", "restarts")
    found: dict[str, dict] = {}

    def add(name: str, accuracy: Estimate, raw: Estimate, normalised: Estimate) -> None:
        table.add_row(name, *map(_cell, (accuracy, raw, normalised)), str(raw.n))
        found[name] = {
            key: finding(value) for key, value in zip(("accuracy", "disagreement", "ratio"), (accuracy, raw, normalised),
                                                     strict=True)
        }  # fmt: skip

    right = (own == y).mean(axis=1)
    pairs = np.array([[disagreement(a, b) for b in own] for a in own])
    errors = np.maximum(1 - right, 1 / len(y))
    ratio = (pairs / errors + (pairs / errors).T) / 2
    add(
        "another restart", median(right, rng=rng, unit="share"), median_over_pairs(pairs, rng=rng, unit="share"),
        median_over_pairs(ratio, rng=rng),
    )  # fmt: skip
    ways: dict[str, Way] = {f"random step keeping {kept:.1%}": functools.partial(_random_steps, kept) for kept in KEPT}
    ways |= {"diagonal Gaussian": _diagonal, f"Gaussian of rank {RANK}": _low_rank}
    for name, way in ways.items():
        numbers = []
        with console.status(name):
            for position, row in enumerate(rows):
                samples = way(run, int(row), pick(ends, position), num_samples, predict, rng)
                seen = predict(samples, x)
                wrong = np.maximum(1 - (seen == y).mean(axis=1), 1 / len(y))
                differs = np.array([disagreement(own[position], sample) for sample in seen])
                numbers.append(((seen == y).mean(), differs.mean(), (differs / wrong).mean()))
        accuracy, raw, normalised = np.array(numbers).T
        add(
            f"{name} around the restart", median(accuracy, rng=rng, unit="share"), median(raw, rng=rng, unit="share"),
            median(normalised, rng=rng),
        )  # fmt: skip
    console.print(table)
    console.print(
        "medians over restarts (of each one's mean over samples) or over pairs; 95 % intervals resample restarts"
    )
    numbers_file = out / "comparison.json"
    numbers_file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
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


def disagreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of examples on which two networks predict different classes."""
    return float(np.mean(a != b))


def _predictor(run: Run) -> Predict:
    predict = jax.jit(jax.vmap(lambda p, x: jnp.argmax(run.model.apply(p, x), axis=-1), in_axes=(0, None)))
    return lambda params, x: np.asarray(predict(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), x))


def _random_steps(
    share: float, run: Run, row: int, centre: Params, num: int, predict: Predict, rng: np.random.Generator
) -> Params:
    """Filter-normalised random directions, each as far as the train accuracy stays."""
    del row
    directions = [pick(random_directions(centre, 1, rng=rng), 0) for _ in range(num)]
    x, y = run.data.x_train, run.data.y_train
    least = share * np.mean(predict(jax.tree.map(lambda leaf: leaf[None], centre), x)[0] == y)
    samples = []
    for direction in directions:
        line = jax.tree.map(lambda c, d: c + STEPS.reshape(-1, *(1,) * d.ndim) * d, centre, direction)
        kept = np.mean(predict(line, x) == y, axis=1) >= least
        last = int(np.argmin(kept)) - 1 if not kept.all() else len(STEPS) - 1
        samples.append(pick(line, last) if last >= 0 else centre)  # where even the shortest step is too long, none
    return jax.tree.map(lambda *leaves: np.stack(leaves), *samples)


def _late(run: Run, row: int) -> np.ndarray:
    """(checkpoint, param) of the second half of training."""
    num = len(run.checkpoint_steps)
    return np.asarray(run.theta.oindex[row, np.arange(num // 2, num)], np.float64)


def _diagonal(run: Run, row: int, centre: Params, num: int, predict: Predict, rng: np.random.Generator) -> Params:
    """Around the restart, each weight with the spread that it has over late checkpoints."""
    del predict
    late = _late(run, row)
    theta = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(centre)])
    return run.layout.unravel(theta + late.std(axis=0) * rng.standard_normal((num, late.shape[1])))


def _low_rank(run: Run, row: int, centre: Params, num: int, predict: Predict, rng: np.random.Generator) -> Params:
    """Around the restart, along the principal components of late checkpoints, with their spread."""
    del predict
    found = principal_components(_late(run, row), min(RANK, len(run.checkpoint_steps) // 2 - 1))
    weights = found.coordinates.std(axis=0) * rng.standard_normal((num, found.coordinates.shape[1]))
    return jax.tree.map(np.add, centre, run.layout.unravel(weights @ found.directions))


def _cell(estimate: Estimate) -> str:
    ci = f" [{estimate.ci[0]:.4f}, {estimate.ci[1]:.4f}]" if estimate.ci else ""
    return f"{estimate.value:.4f}{ci}"


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
