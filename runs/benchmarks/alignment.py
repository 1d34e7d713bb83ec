"""How fast does wspace align a population: beside the exact assignments that it cannot avoid, and beside plain code?

    python runs/benchmarks/alignment.py [--data FOLDER] [--num-networks 64] [--num-steps 160] [--rounds 5] [--write]

All networks of a population are matched to the first by their weights, one restart each; how it is measured is in
README.md. The networks are trained first and kept in `--runs`, where the next call finds them. The exit code is 1
when the plain code ends at other perms than wspace, not when a target is missed.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import memory
import numpy as np
import tables
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from analysis.alignment import Match, assignment, match_weights
from analysis.alignment.matching import spawn
from wspace import open_run
from wspace import spec as specs
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, SeedSpec, Spec, TrainSpec
from wspace.symmetry import Symmetry
from wspace.tree import Params

ROOT = Path(__file__).parents[2]
FLOOR_TARGET, PLAIN_TARGET, MEMORY_TARGET = 1.5, 2.0, 4e9  # at most, at least, at most
GAIN = 1e-12  # of the plain code, relative: less is rounding
NUM_PUBLISHED = 8  # pairs of the published algorithm, whose time is scaled up
CONTENDERS = {  # -> name in the table, cores
    "wspace": ("wspace", "all cores"),
    "wspace-1": ("wspace", "1 thread"),
    "assignments": ("its assignments alone", "1 thread"),
    "products": ("products of weights, each once", "1 thread"),
    "plain": ("plain code, the same algorithm", "1 thread"),
    "published": ("plain code, as published", "1 thread"),
}

Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (fan_in, fan_out) and bias (fan_out,), float64


class Sizes(NamedTuple):
    """Of the networks and of their training."""

    hidden: tuple[int, ...] = (512, 512, 512)
    num_networks: int = 64
    num_steps: int = 160
    batch_size: int = 500
    num_examples: int = 10_000  # of the drawn data
    num_features: int = 784
    num_classes: int = 10


class Population(NamedTuple):
    """Trained networks: the first is the reference, the others are moved.

    Attributes:
        symmetry: of the model.
        reference: one network.
        others: stacked, leaves (pair, ...).
    """

    symmetry: Symmetry
    reference: Params
    others: Params

    @property
    def num_pairs(self) -> int:
        """Networks that are moved."""
        return jax.tree.leaves(self.others)[0].shape[0]


class Ascent(NamedTuple):
    """Where the plain code ended for one pair: a perm for each hidden layer, and <theta_a, g theta_b>."""

    perms: list[np.ndarray]
    objective: float


def main(argv: list[str] | None = None) -> int:
    """Train or find the networks, measure, print, and write where asked."""
    args = _arguments(argv)
    sizes = Sizes(num_networks=args.num_networks, num_steps=args.num_steps)
    if args.quick:
        sizes = Sizes((16, 12, 16), num_networks=5, num_steps=20, batch_size=40, num_examples=200, num_features=12)
    folder = trained(sizes, args.data, args.runs)
    before = os.getloadavg()[0]
    record = {
        **tables.environment(),
        "data": args.data.name if args.data else "Gaussian inputs, a linear teacher's labels",
        **sizes._asdict(),
        "num_cores": tables.num_cores(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        "python": platform.python_version(),
        "load_average_before": before,
        **measure(load(folder), args.rounds),
        **align_in_new_process(folder),
    }
    print(markdown(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        tables.show("alignment", f"{tables.heading(record)}; medians of {args.rounds} rounds.\n\n{markdown(record)}")
    return 0 if record["same_perms"] else 1


def trained(sizes: Sizes, data: Path | None, folder: Path) -> Path:
    """The run folder of the population, which `wspace train` completes where it is not complete yet."""
    spec = make_spec(sizes, data)
    widths = "-".join(map(str, sizes.hidden))
    out = folder / f"{data.name if data else 'teacher'}-{widths}-{sizes.num_networks}x{sizes.num_steps}"
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "alignment.toml")
        path.write_text(specs.to_toml(spec), encoding="utf-8")
        code = "import sys; from wspace.cli import main; sys.exit(main())"
        done = subprocess.run([sys.executable, "-c", code, "train", str(path), "--out", str(out)], stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"training failed with exit code {done.returncode}; what it said is above")
    return out


def make_spec(sizes: Sizes, data: Path | None) -> Spec:
    """Adam at 1e-3 on IDX files, or on Gaussian inputs that a random linear teacher labels; only the end is kept."""
    drawn = DataSpec(
        name="teacher",
        teacher_hidden=(),
        num_examples=sizes.num_examples,
        num_features=sizes.num_features,
        num_classes=sizes.num_classes,
    )
    return Spec(
        name="alignment",
        data=DataSpec(name="idx", path=str(data), split="ordered") if data else drawn,
        model=ModelSpec(hidden=sizes.hidden),
        train=TrainSpec(num_steps=sizes.num_steps, batch_size=sizes.batch_size),
        checkpoints=CheckpointSpec(num=2),
        seeds=SeedSpec(num=sizes.num_networks),
    )


def load(folder: Path) -> Population:
    """The trained networks of a run."""
    run = open_run(folder)
    params = run.params()
    return Population(run.model.symmetry, _pick(params, 0), _pick(params, slice(1, None)))


def measure(population: Population, rounds: int) -> dict[str, Any]:
    """Every contender in turn, `rounds` times: seconds and cores that each turn had, and what all of them found.

    wspace on all cores and in one thread; the assignments that it solves in that thread, alone; the products of weights
    that no exact ascent can do without; the same algorithm plainly, and the published one, plainly, on the first
    NUM_PUBLISHED pairs and scaled up to all.
    """
    num = population.num_pairs
    few = min(NUM_PUBLISHED, num)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    cores: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    def turn(name: str, function: Callable[[], Any], scale: float = 1.0) -> Any:
        cpu = time.process_time()
        taken, result = _timed(function)
        seconds[name].append(taken * scale)
        cores[name].append((time.process_time() - cpu) / taken)
        return result

    match, plain, published, num_assignments, same = None, [], [], 0, True
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        match = turn("wspace", lambda: align(population))
        with timed_assignments() as times:
            single = turn("wspace-1", lambda: align(population, num_threads=1))
        seconds["assignments"].append(sum(times))
        with threadpool_limits(1, user_api="blas"):
            seconds["products"].append(products(population))
            plain = turn("plain", lambda: plainly(population, range(num), from_inputs=True))
            published = turn("published", lambda: plainly(population, range(few), from_inputs=False), num / few)
        num_assignments = len(times)
        same &= same_perms(match, plain) and same_perms(single, plain)
    assert match is not None
    return {
        "num_pairs": num,
        "num_published": few,
        "seconds": seconds,
        "cores_used": cores,
        "num_assignments": num_assignments,
        "sweeps": match.sweeps.tolist(),
        "converged": int(match.converged.sum()),
        "objective": match.objective.tolist(),
        "plain_objective": [ascent.objective for ascent in plain],
        "published_objective": [ascent.objective for ascent in published],
        "same_perms": same,
    }


def align(population: Population, num_threads: int | None = None) -> Match:
    """wspace: all pairs, one restart, always the same."""
    rng = np.random.default_rng(0)
    return match_weights(*population, rng=rng, num_restarts=1, num_threads=num_threads)


def plainly(population: Population, pairs: Sequence[int], *, from_inputs: bool) -> list[Ascent]:
    """The plain code, pair by pair, with the draws that wspace makes."""
    rngs = spawn(np.random.default_rng(0), population.num_pairs)
    found = []
    for pair in pairs:
        a, b = _layers(population.reference), _layers(_pick(population.others, pair))
        found.append(coordinate_ascent(a, b, rngs[pair], from_inputs))
    return found


def coordinate_ascent(a: Layers, b: Layers, rng: np.random.Generator, from_inputs: bool) -> Ascent:
    """Ainsworth et al. 2023 (2209.04836), algorithm 1, as one would write it: every similarity by matmuls, each time.

    Args:
        a, b: the reference, and the network whose units are permuted.
        rng: order of the layers in each sweep.
        from_inputs: the first sweep goes from the inputs on, and layers without a perm add nothing, as in wspace.
            Otherwise it begins at the identity, as published, and all sweeps are in random order.
    """
    num = len(a) - 1
    perms = [None if from_inputs else np.arange(len(bias)) for _, bias in b[:-1]]
    while True:
        improved = False
        for layer in range(num) if any(perm is None for perm in perms) else rng.permutation(num):
            similarity = _similarity(a, b, perms, layer)
            rows, perm = linear_sum_assignment(similarity, maximize=True)
            old, best = perms[layer], similarity[rows, perm].sum()
            if old is None or best - similarity[rows, old].sum() > GAIN * abs(best):
                perms[layer], improved = perm, True
        if not improved:
            break
    final = [perm for perm in perms if perm is not None]
    return Ascent(final, _inner(a, b, final))


def same_perms(match: Match, ascents: Sequence[Ascent]) -> bool:
    """Whether wspace and the plain code relabel all units of all pairs in the same way."""
    return all(
        np.array_equal(stacked[pair], perm)
        for pair, ascent in enumerate(ascents)
        for stacked, perm in zip(match.element.perms, ascent.perms, strict=True)
    )


def products(population: Population) -> float:
    """Seconds for the float64 products of the weights of all pairs, from either side that has hidden units, once."""
    taken, a = 0.0, [weight for weight, _ in _layers(population.reference)]
    for pair in range(population.num_pairs):
        b = [weight for weight, _ in _layers(_pick(population.others, pair))]
        taken += _timed(lambda b=b: [x.T @ y for x, y in zip(a[:-1], b[:-1], strict=True)])[0]
        taken += _timed(lambda b=b: [x @ y.T for x, y in zip(a[1:], b[1:], strict=True)])[0]
    return taken


@contextlib.contextmanager
def timed_assignments() -> Iterator[list[float]]:
    """Seconds of every call of SciPy's `linear_sum_assignment` that wspace makes meanwhile."""
    times: list[float] = []

    def timed(*args, **kwargs):
        taken, result = _timed(lambda: linear_sum_assignment(*args, **kwargs))
        times.append(taken)
        return result

    with mock.patch.object(assignment, "linear_sum_assignment", timed):
        yield times


def align_in_new_process(folder: Path) -> dict[str, Any]:
    """Peak resident bytes of a process that reads the networks of a run and aligns them, and does nothing else."""
    command = [sys.executable, __file__, "--align", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"aligning failed with exit code {done.returncode}; what it said is above\n{done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])


def ratios(record: dict[str, Any], what: str, to: str = "wspace") -> list[float]:
    """Seconds of one contender as multiples of another's, in each round."""
    return [a / b for a, b in zip(record["seconds"][what], record["seconds"][to], strict=True)]


def verdicts(record: dict[str, Any]) -> list[tuple[str, float, bool]]:
    """(text, measured, met) of every target."""
    cores, peak = record["num_cores"], record["peak_bytes"]
    floor = cores * statistics.median(ratios(record, "wspace", "assignments"))
    least = 1 + statistics.median(ratios(record, "products", "assignments"))
    plain = statistics.median(ratios(record, "plain"))
    told = (
        (f"at most {FLOOR_TARGET:g} x the assignments alone on {cores} cores", f"{floor:.3g} x", floor <= FLOOR_TARGET),
        (f"at least {PLAIN_TARGET:g} x as fast as plain code", f"{plain:.3g} x", plain >= PLAIN_TARGET),
        (f"at most {MEMORY_TARGET / 1e9:g} GB resident", f"{peak / 1e9:.2f} GB", peak <= MEMORY_TARGET),
    )
    lines = [f"{asked}: {measured}, {'met' if met else 'NOT MET'}" for asked, measured, met in told]
    if least > FLOOR_TARGET:
        lines[0] += (
            f" (out of reach here: with nothing but the products of weights beside them it would be {least:.3g} x)"
        )
    return [(line, value, met) for line, value, (*_, met) in zip(lines, (floor, plain, peak), told, strict=True)]


def markdown(record: dict[str, Any]) -> str:
    """The table, the facts and the verdicts."""
    few, num, cores = record["num_published"], record["num_pairs"], record["num_cores"]
    ours = record["objective"]
    found = {"wspace": ours, "wspace-1": ours, **{name: record[f"{name}_objective"] for name in ("plain", "published")}}
    header = ("contender", "cores", "pairs", "used", "seconds", "min - max", "wspace is", "objective / wspace's")
    lines = []
    for key, names in CONTENDERS.items():
        seconds = record["seconds"][key]
        beside = [theirs / our for theirs, our in zip(found.get(key, []), ours, strict=False)]
        lines.append(
            (
                *names,
                str(few if key == "published" else num),
                f"{statistics.median(used):.2f}" if (used := record["cores_used"][key]) else "",
                f"{statistics.median(seconds):.3g}",
                f"{min(seconds):.3g} - {max(seconds):.3g}",
                f"{statistics.median(ratios(record, key)):.3g} x",
                f"{statistics.median(beside):.4f}" if beside else "",
            )
        )
    sizes = "-".join(map(str, (record["num_features"], *record["hidden"], record["num_classes"])))
    sweeps, count = record["sweeps"], record["num_assignments"]
    facts = (
        f"{num + 1} networks {sizes} after {record['num_steps']} steps on {record['data']}; {num} pairs, "
        f"{record['converged']} converged after {statistics.median(sweeps):g} sweeps ({min(sweeps)} - {max(sweeps)}); "
        f"{count:,} assignments, {1e3 * statistics.median(record['seconds']['assignments']) / count:.3g} ms each; "
        f"{cores} cores, load average {record['load_average_before']:.2f} before, python {record['python']}, "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    )
    told = [text for text, *_ in verdicts(record)]
    if not record["same_perms"]:
        told.append("WRONG: the plain code ends at other perms than wspace")
    return "\n\n".join((tables.table(header, lines), facts, "\n".join(f"- {text}" for text in told)))


def _similarity(a: Layers, b: Layers, perms: Sequence[np.ndarray | None], layer: int) -> np.ndarray:
    """S[i, j]: inner product of all that unit i of a and unit j of b receive and send."""
    (weight_a, bias_a), (weight_b, bias_b) = a[layer], b[layer]
    (next_a, _), (next_b, _) = a[layer + 1], b[layer + 1]
    total = np.outer(bias_a, bias_b)
    if layer == 0:
        total += weight_a.T @ weight_b
    elif (perm := perms[layer - 1]) is not None:
        total += weight_a.T @ weight_b[perm]
    if layer == len(perms) - 1:
        total += next_a @ next_b.T
    elif (perm := perms[layer + 1]) is not None:
        total += next_a @ next_b[:, perm].T
    return total


def _inner(a: Layers, b: Layers, perms: Sequence[np.ndarray]) -> float:
    """<theta_a, g theta_b>."""
    total = 0.0
    ends = [np.arange(len(a[0][0])), *perms, np.arange(len(a[-1][1]))]
    for (weight_a, bias_a), (weight_b, bias_b), (rows, columns) in zip(a, b, itertools.pairwise(ends), strict=True):
        total += float(np.vdot(weight_a, weight_b[rows][:, columns]) + np.vdot(bias_a, bias_b[columns]))
    return total


def _pick(params: Params, index: int | slice) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], params)


def _layers(params: Params) -> Layers:
    return [(layer["weight"].astype(np.float64), layer["bias"].astype(np.float64)) for layer in params]


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def _align(folder: Path) -> int:
    """What the new process does: read, align, then one line of JSON."""
    taken, _ = _timed(lambda: align(load(folder)))
    print(json.dumps({"peak_bytes": memory.peak_bytes(), "process_s": taken}))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with MNIST's IDX files (default: data that is drawn)"
    )
    parser.add_argument("--num-networks", type=int, default=64, help="the first is the reference (default 64)")
    parser.add_argument("--num-steps", type=int, default=160, help="of training (default 160)")
    parser.add_argument("--rounds", type=int, default=5, help="the contenders take turns so many times (default 5)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "results" / "alignment-benchmark",
        metavar="FOLDER",
        help="where the trained networks are kept (default results/alignment-benchmark)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="a toy population: does everything run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--align"]:
        sys.exit(_align(Path(sys.argv[2])))
    sys.exit(main())
