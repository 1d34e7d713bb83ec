"""Do published barriers between aligned networks come out again, on fewer images?

Three claims on MNIST, each with the published numbers beside the measured ones. (1) Fort 2022, repeating Git Re-Basin
(Ainsworth et al. 2023, 2209.04836): weight matching leaves most of the barrier between wide networks trained by slow SGD.
(2) Jordan et al. 2023 (2211.08403): matching removes most of the barrier between narrower ones, and REPAIR more. (3)
Frankle et al. 2020 (1912.05671): children of one init are linearly connected once training is stable, networks from
different inits are not. Published numbers are of 60,000 train images; here 8,000 of MNIST's IDX files are used, for as
many steps, or scikit-learn's digits where the folder is missing.

    python runs/rebasin.py --data FOLDER
    python runs/rebasin.py --num-seeds 3 --num-steps 100 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.alignment import Repaired, match_activations
from analysis.alignment.study import Study, study
from analysis.connectivity import Path as Way
from analysis.connectivity import pair_barriers, straight
from analysis.report import write_report
from analysis.report.findings import finding
from analysis.statistics import Estimate, median_over_pairs
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.symmetry import act
from wspace.train import train
from wspace.tree import Params

Measure = Callable[[Run, Study], Estimate]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A claim: what to train, and the published numbers with what measures them.

    Attributes:
        hidden: units of the hidden layers.
        train: steps and batch size.
        optimizer, schedule: of training.
        rows: (quantity, published number or None, what measures it).
    """

    hidden: tuple[int, ...]
    train: TrainSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    rows: tuple[tuple[str, float | None, Measure], ...]


def barrier(way: str, loss: str) -> Measure:
    """Median over pairs of the barrier above the chord, nats."""
    return lambda _, s: median_over_pairs(s.barriers[way][loss].chord, rng=np.random.default_rng(0), unit="nats")


def cosine(which: str) -> Measure:
    """Median over pairs of the cosine between two networks."""
    return lambda _, s: median_over_pairs(s.geometry[which].cosine, rng=np.random.default_rng(0))


def activations_repaired(run: Run, result: Study) -> Estimate:
    """Median train barrier above the chord of pairs matched by activations, every point of the line repaired."""
    model, ids = run.model, run.seeds[run.converged()][result.rows].tolist()

    def end(i: int, j: int) -> Params:
        b = run.params([j])
        match = match_activations(model.symmetry, run.params(i), b, model=model, x=run.data.x_train)
        return jax.tree.map(lambda leaf: leaf[0], act(model.symmetry, match.element, b))

    matrix = _barriers(run, ids, run.path / "activations-repaired", end, Repaired(model))
    return median_over_pairs(matrix, rng=np.random.default_rng(0), unit="nats")


def repair_rows(raw: float, matched: float, repaired: float) -> tuple[tuple[str, float | None, Measure], ...]:
    """The three numbers that the REPAIR paper gives, and ours by weight matching beside its activation matching."""
    return (
        ("train barrier, raw", raw, barrier("raw", "train_loss")),
        ("train barrier, activations matched", matched, barrier("activations", "train_loss")),
        ("train barrier, activations matched, REPAIR", repaired, activations_repaired),
        ("train barrier, weights matched", None, barrier("weights", "train_loss")),
        ("train barrier, weights matched, REPAIR", None, barrier("repaired", "train_loss")),
    )


MOMENTUM = OptimizerSpec(name="momentum", learning_rate=0.05)
EXPERIMENTS = {
    "repair-2-layers": Experiment(
        (128,) * 2, TrainSpec(num_steps=1500, batch_size=2000), MOMENTUM, ScheduleSpec(kind="cosine"),
        repair_rows(1.629, 0.045, 0.025),
    ),
    "repair-4-layers": Experiment(
        (128,) * 4, TrainSpec(num_steps=1500, batch_size=2000), MOMENTUM, ScheduleSpec(kind="cosine"),
        repair_rows(2.694, 0.189, 0.085),
    ),
    "fort": Experiment(
        (512,) * 3,
        TrainSpec(num_steps=2400, batch_size=500),
        OptimizerSpec(name="momentum", learning_rate=1e-3),
        ScheduleSpec(kind="warmup_cosine", warmup_steps=10),
        (
            ("test barrier, raw", 1.36, barrier("raw", "test_loss")),
            ("test barrier, weights matched", 0.96, barrier("weights", "test_loss")),
            ("cosine, raw", 0.0, cosine("raw")),
            ("cosine, weights matched", 0.11, cosine("aligned")),
        ),
    ),
}  # fmt: skip
FORKS = (0.0, 0.02, 0.1, 0.5)  # where children part, as a share of training


def main(
    data: Path = Path("data/mnist10k"),
    num_seeds: int = 6,
    num_steps: int | None = None,
    only: tuple[str, ...] = (),
    reports: bool = True,
    out: Path = Path("results/rebasin"),
) -> int:
    """Train, align, compare.

    Args:
        data: folder with MNIST's IDX files; without it, scikit-learn's digits.
        num_seeds: networks of each experiment; fort, whose lines are long to compute, takes 4 at most.
        num_steps: of training, instead of the published numbers.
        only: names of experiments; default: all, and the children of one init.
        reports: write every run's own report as well.
        out: folder of the runs and of comparison.json.
    """
    console, every = Console(), (*EXPERIMENTS, "children")
    if unknown := set(only) - set(every):
        console.print(f"--only got {sorted(unknown)}; the experiments are {', '.join(every)}")
        return 2
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits, whose numbers are not comparable")
    table = Table("experiment", "quantity", "published", "measured", "95 % interval", "networks")
    numbers = out / "comparison.json"
    found: dict[str, dict] = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}

    def add(name: str, quantity: str, published: float | None, estimate: Estimate) -> None:
        found.setdefault(name, {})[quantity] = finding(estimate) | {"published": published}
        ci = f"{estimate.ci[0]:.3f} .. {estimate.ci[1]:.3f}" if estimate.ci else "too few"
        known = "none" if published is None else f"{published:g}"
        table.add_row(name, quantity, known, f"{estimate.value:.3f}", ci, str(estimate.n))

    for name, experiment in EXPERIMENTS.items():
        if only and name not in only:
            continue
        seeds = min(num_seeds, 4) if name == "fort" else num_seeds
        run = _train(make_spec(name, experiment, data, num_steps, SeedSpec(num=seeds)), out / name, console)
        ids = run.seeds[run.converged()].tolist()
        result = study(
            run.model, run.model.symmetry, run.loss_kind, run.params(ids), run.data, rng=np.random.default_rng(0),
            init=run.params(ids, 0), num_seeds=seeds, path=run.path / "alignment-experiment",
            progress=lambda text, name=name: console.print(f"{name}: {text}"),
        )  # fmt: skip
        for quantity, published, measure in experiment.rows:
            add(name, quantity, published, measure(run, result))
        if reports:
            write_report(run)
    if not only or "children" in only:
        for quantity, estimate in children(data, num_seeds, num_steps, out, console, reports):
            add("children", quantity, None, estimate)
    console.print(table)
    numbers.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"numbers: {numbers}; every run's folder has a report", soft_wrap=True)
    return 0


def make_spec(
    name: str, experiment: Experiment, data: Path, num_steps: int | None, seeds: SeedSpec, batch_size: int = 0
) -> Spec:
    """The spec of one experiment, on MNIST or on digits."""
    mnist = data.is_dir()
    source = DataSpec(name="idx", path=str(data), split="ordered") if mnist else DataSpec(name="digits")
    steps = num_steps or experiment.train.num_steps
    size = batch_size or experiment.train.batch_size
    warmup = min(experiment.schedule.warmup_steps, steps - 1)
    kind = experiment.schedule.kind if warmup or experiment.schedule.kind != "warmup_cosine" else "cosine"
    return Spec(
        name=name,
        question="Do published barriers between aligned networks come out again, on fewer images?",
        data=source,
        model=ModelSpec(hidden=experiment.hidden, init="lecun"),
        optimizer=experiment.optimizer,
        schedule=ScheduleSpec(kind=kind, warmup_steps=warmup),
        train=TrainSpec(num_steps=steps, batch_size=size if mnist else min(size, 256)),
        checkpoints=CheckpointSpec(schedule="log", num=8),
        seeds=seeds,
    )


def children(data: Path, num_seeds: int, num_steps: int | None, out: Path, console: Console, reports: bool):
    """Train barriers between children that part at step k, and between networks of different inits."""
    experiment = dataclasses.replace(EXPERIMENTS["repair-2-layers"], train=TrainSpec(num_steps=1500, batch_size=100))
    steps = num_steps or experiment.train.num_steps
    parts = {
        f"forked at {share:.0%} of training": SeedSpec(
            ids=tuple(range(1, num_seeds + 1)), vary="order", parent=0, fork_step=round(share * steps)
        )
        for share in FORKS
    } | {"different inits": SeedSpec(num=num_seeds, vary="both")}
    for number, (name, seeds) in enumerate(parts.items()):
        spec = make_spec(f"children-{number}", experiment, data, num_steps, seeds, batch_size=100)
        run = _train(spec, out / spec.name, console)
        console.print(f"children, {name}: barriers")
        matrix = _barriers(run, run.seeds[run.converged()].tolist(), run.path / "barriers", lambda _, j: run.params(j))  # noqa: B023
        yield f"train barrier, {name}", median_over_pairs(matrix, rng=np.random.default_rng(0), unit="nats")
        if reports:
            write_report(run)


def _barriers(
    run: Run, ids: list[int], path: Path, end: Callable[[int, int], Params], way: Way = straight
) -> np.ndarray:
    """Of the train loss above the chord from seed i to end(i, j), (seed, seed) in nats; rows are kept beside the run."""
    routes = lambda i: {"way": lambda j: ((run.params(ids[i]), end(ids[i], ids[j])), way)}  # noqa: E731
    settings = {"seeds": ids, "created": run.provenance["created"]}
    found = pair_barriers(run.model, run.loss_kind, len(ids), routes, run.data, path=path, settings=settings)
    return found["way"]["train_loss"].chord


def _train(spec: Spec, out: Path, console: Console) -> Run:
    with Bar(console, spec.name) as bar:
        return train(spec, out, monitor=bar)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
