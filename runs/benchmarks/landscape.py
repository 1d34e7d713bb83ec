"""How fast is a loss surface: of what this machine can do, and beside what others use?

    python runs/benchmarks/landscape.py [--data FOLDER] [--workloads small wide] [--rounds 3] [--torch-python PATH] [--write]

Train loss and accuracy on the plane through three trained networks, 51 x 51 points, all examples at each; how it is
measured is in README.md. The exit code is 1 when the contenders find different surfaces, not when a target is missed.
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import memory
import numpy as np
import optax
import tables
from contenders import matmul
from teams import PAUSE_SECONDS
from worker import versions
from workloads import TOY

from analysis.landscape import Plane, evaluate, grid, plane_through
from analysis.landscape.surface import KEPT_VALUES
from wspace import MLP, open_run
from wspace.data import Dataset
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, SeedSpec, Spec, TrainSpec
from wspace.train import train
from wspace.tree import pick

METRICS = ("train_loss", "train_accuracy")
TOLERANCE = 2e-5  # of a loss, relative: float32 rounding
SMALL_LOSS = 0.05  # below it, of this: a loss is a difference of outputs, and those near 10 are rounded to 1e-6
TIED = 2  # examples whose two largest outputs may be equal up to rounding, so that the accuracy differs
VMAP_BYTES = 4e9  # of activations, for the points that are vmapped together
CONTENDERS = {  # -> name in the table
    "wspace": "wspace",
    "loop": "per-point loop, jitted JAX",
    "vmap": "vmap over {at_once} points, jitted JAX",
    "loss-landscapes": "loss-landscapes, PyTorch",
}


class Job(NamedTuple):
    """Three networks, and how much of the grid everybody but wspace computes.

    Attributes:
        spec: what the networks are trained with.
        targets: contender -> how many times as fast wspace has to be.
        every: plain JAX takes every so-manyth point of the grid.
        steps: loss-landscapes takes steps x steps points of its own.
        num: points of the grid along each axis.
    """

    spec: Spec
    targets: dict[str, float]
    every: int = 1
    steps: int = 51
    num: int = 51


class Scene(NamedTuple):
    """The trained networks of a job, and the plane through them."""

    model: MLP
    data: Dataset
    plane: Plane
    num: int

    @property
    def points(self) -> np.ndarray:
        """Relative coordinates of the grid, (point, axis), the second axis running faster."""
        x, y = grid(self.plane, self.num)
        return np.array([[a, b] for a in x for b in y])


def main(argv: list[str] | None = None) -> int:
    """Train, measure, print, and write where asked."""
    args = _arguments(argv)
    rounds = min(args.rounds, 2) if args.quick else args.rounds
    record: dict[str, Any] = {**tables.environment(), "rounds": rounds, "jobs": {}}
    jobs = make_jobs(args.data, quick=args.quick)
    for name in jobs if args.quick else args.workloads:
        job = jobs[name]
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: training", file=sys.stderr)
            train(job.spec, folder)
            record["jobs"][name] = {"load_average_before": before, **measure(job, Path(folder), rounds, args)}
        print(markdown(record["jobs"][name]), end="\n\n", flush=True)
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        parts = [f"{tables.heading(record)}; medians of {rounds} rounds.", *map(markdown, record["jobs"].values())]
        tables.show("landscape", "\n\n".join(parts))
    found = [wrong(job) for job in record["jobs"].values()]
    return 1 if any(found) else 0


def make_jobs(data: Path | None, *, quick: bool = False) -> dict[str, Job]:
    """The small network on digits, and the wide one on IDX files or on Gaussian inputs that a random teacher labels."""

    def spec(data: DataSpec, hidden: tuple[int, ...], **training: int) -> Spec:
        return Spec(
            name="landscape", data=data, model=ModelSpec(hidden=hidden), train=TrainSpec(**training),  # type: ignore
            checkpoints=CheckpointSpec(num=2), seeds=SeedSpec(num=3),
        )  # fmt: skip

    digits = DataSpec(name="digits")
    if quick:
        toy = spec(digits, (12, 8), num_steps=20, batch_size=64)
        return {"toy": Job(toy, {"loop": 2.0, "loss-landscapes": 20.0}, every=3, steps=4, num=5)}
    drawn = DataSpec(name="teacher", teacher_hidden=(), num_examples=10_000, num_features=784, num_classes=10)
    wide = DataSpec(name="idx", path=str(data), split="ordered") if data else drawn
    return {
        "small": Job(spec(digits, (128, 128), num_steps=300, batch_size=64), {"loop": 2.0, "loss-landscapes": 20.0}),
        "wide": Job(
            spec(wide, (512, 512, 512), num_steps=160, batch_size=500), {"loop": 1.5, "loss-landscapes": 4.0},
            every=17, steps=11,
        ),
    }  # fmt: skip


def load(folder: Path, num: int) -> Scene:
    """The scene of a run of three networks."""
    run = open_run(folder)
    params = run.params()
    assert isinstance(run.model, MLP)
    return Scene(run.model, run.data, plane_through(*(pick(params, seed) for seed in range(3))), num)


def measure(job: Job, folder: Path, rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every contender in turn, `rounds` times: seconds a point, cores that the turn had, and how far losses differ."""
    scene = load(folder, job.num)
    few = scene.points[:: job.every]
    at_once = min(len(few), points_at_once(scene))
    one, many = plain_program(scene, vmapped=False), plain_program(scene, vmapped=True)
    turns: dict[str, tuple[int, Callable[[], Any]]] = {
        "wspace": (len(scene.points), lambda: surface(scene)),
        "loop": (len(few), lambda: looped(one, few)),
        "vmap": (len(few), lambda: vmapped(many, few, at_once)),
    }
    peaks = [matmul.prepare(TOY, *TOY.examples(), library) for library in ("numpy", "jax")]
    num_points = {name: num for name, (num, _) in turns.items()} | {"loss-landscapes": job.steps**2}
    record: dict[str, Any] = {
        "sizes": scene.model.sizes, "num_examples": len(scene.data.x_train), "data": scene.data.name, "num": job.num,
        "num_cores": tables.num_cores(), "targets": job.targets, "at_once": at_once, "num_points": num_points,
        "peak_flops": [], "seconds": {}, "cores_used": {}, "compile_s": {}, "differs": {}, "missing": "",
        "flops": flops(scene, executed=False), "executed_flops": flops(scene, executed=True),
        "peak_bytes": surface_in_new_process(folder, job.num),
    }  # fmt: skip

    def note(name: str, seconds: float, cpu: float) -> None:
        record["seconds"].setdefault(name, []).append(seconds / num_points[name])
        record["cores_used"].setdefault(name, []).append(cpu / seconds)

    with LossLandscapes(scene, args.torch_python) as peer:
        compiling = {
            "wspace": (scene.num, lambda: surface(scene, rows=1)),
            "loop": (1, lambda: looped(one, few[:1])),
            "vmap": (at_once, lambda: vmapped(many, few[:at_once], at_once)),
        }
        first = {name: (num, _timed(turn)[0]) for name, (num, turn) in compiling.items()}
        if not peer.missing:
            first["loss-landscapes"] = (4, peer.turn(2)["seconds"])
        results: dict[str, np.ndarray] = {}
        for number in range(rounds):
            print(f"{scene.model.sizes}: round {number + 1} of {rounds}", file=sys.stderr)
            time.sleep(PAUSE_SECONDS)
            record["peak_flops"].append(max(amount / taken for amount, taken, _ in (peak(0) for peak in peaks)))
            for name, (_, turn) in turns.items():
                time.sleep(PAUSE_SECONDS)
                seconds, cpu, results[name] = _timed(turn)
                note(name, seconds, cpu)
            if not peer.missing:
                time.sleep(PAUSE_SECONDS)
                answer = peer.turn(job.steps)
                note("loss-landscapes", answer["seconds"], answer["cpu"])
                results["loss-landscapes"] = np.array(answer["losses"]).reshape(-1, 1)
    record["missing"], record["versions"] = peer.missing, versions() | peer.versions
    for name, seconds in record["seconds"].items():
        num, taken = first[name]
        record["compile_s"][name] = max(0.0, taken - num * statistics.median(seconds))
    reference = results.pop("loop")
    record["differs"]["wspace"] = difference(results["wspace"][:: job.every], reference)
    record["differs"]["vmap"] = difference(results["vmap"], reference)
    if not peer.missing:
        at = looped(one, their_points(scene.plane, job.steps))
        record["differs"]["loss-landscapes"] = difference(results["loss-landscapes"], at)
    return record


def surface(scene: Scene, rows: int | None = None) -> np.ndarray:
    """wspace: train loss and accuracy on the grid or on its first rows, (point, 2)."""
    x, y = grid(scene.plane, scene.num)
    found = evaluate(scene.model, "cross_entropy", scene.plane, (x[:rows], y), scene.data, metrics=METRICS)
    return np.stack([found.values[name].ravel() for name in METRICS], axis=1)


def plain_program(scene: Scene, *, vmapped: bool) -> Callable:
    """(x, y) -> train loss and accuracy, as one would write it: form the params, apply the network to all examples."""
    plane = (scene.plane.origin, scene.plane.directions)
    origin, directions = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), plane)
    inputs, labels = jnp.asarray(scene.data.x_train), jnp.asarray(scene.data.y_train)

    def at(x, y):
        params = jax.tree.map(lambda o, d: o + x * d[0] + y * d[1], origin, directions)
        outputs = scene.model.apply(params, inputs)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))
        return loss, jnp.mean(jnp.argmax(outputs, axis=-1) == labels)

    return jax.jit(jax.vmap(at)) if vmapped else jax.jit(at)


def looped(program: Callable, points: np.ndarray) -> np.ndarray:
    """Loss and accuracy (point, 2), point by point from Python."""
    return np.array([[float(value) for value in program(x, y)] for x, y in points.astype(np.float32)])


def vmapped(program: Callable, points: np.ndarray, at_once: int) -> np.ndarray:
    """Loss and accuracy (point, 2), `at_once` points in a program; their number is a multiple of it."""
    parts = points.astype(np.float32).reshape(-1, at_once, 2)
    return np.concatenate([np.stack(program(*part.T), axis=1) for part in parts])


def points_at_once(scene: Scene) -> int:
    """Points that are vmapped together: the whole grid, or a row of it when two layers exceed VMAP_BYTES.

    Raises:
        SystemExit: not even a row fits.
    """
    widest = max(a + b for a, b in zip(scene.model.sizes[1:], scene.model.sizes[2:], strict=False))
    fit = int(VMAP_BYTES / (4 * widest * len(scene.data.x_train)))
    if fit < scene.num:
        raise SystemExit(
            f"vmap over {scene.num} points with {len(scene.data.x_train)} examples exceeds {VMAP_BYTES:g} B"
        )
    return scene.num**2 if fit >= scene.num**2 else scene.num


def their_points(plane: Plane, steps: int) -> np.ndarray:
    """Relative coordinates of the points that `planar_interpolation` returns values for, in its order, (point, axis).

    Value (i, j) belongs to a + i/s (b - a) + (j + 1)/s (c - a) for even i, but to j/s instead of (j + 1)/s for odd i: it
    steps along c - a first and evaluates then, and turns round after every row.
    """
    a, b, c = (anchor.coordinates for anchor in plane.anchors)
    return np.array(
        [a + (i * (b - a) + (j + (i + 1) % 2) * (c - a)) / steps for i in range(steps) for j in range(steps)]
    )


def difference(values: np.ndarray, reference: np.ndarray) -> list[float]:
    """Largest difference of losses, relative to them or, where they are smaller, to SMALL_LOSS.

    The largest difference of accuracies follows where both have those.
    """
    losses = np.max(np.abs(values[:, 0] - reference[:, 0]) / np.maximum(reference[:, 0], SMALL_LOSS))
    return [float(losses), *np.max(np.abs(values[:, 1:] - reference[:, 1 : values.shape[1]]), axis=0).tolist()]


def flops(scene: Scene, *, executed: bool) -> float:
    """Floating-point operations of the matmuls of a point.

    2 N M for N examples and M multiply-adds an example in all layers, M_1 of them in the first. What wspace executes is
    2 N (M - M_1), and three times 2 N M_1 for the whole grid; where those do not fit KEPT_VALUES, for each part of a row.
    """
    num, layers = (
        len(scene.data.x_train),
        [a * b for a, b in zip(scene.model.sizes, scene.model.sizes[1:], strict=False)],
    )
    if not executed:
        return 2.0 * num * sum(layers)
    kept = 3 * num * scene.model.sizes[1] <= KEPT_VALUES
    times = 1 if kept else scene.num * tables.num_cores()
    return 2.0 * num * (sum(layers[1:]) + 3 * times * layers[0] / scene.num**2)


class LossLandscapes:
    """A process with PyTorch and loss-landscapes that computes its surface whenever it is asked; a context manager.

    Attributes:
        missing: the package that is not installed; then it has no turns.
        versions: of those packages.
    """

    def __init__(self, scene: Scene, python: str):
        self._folder = tempfile.TemporaryDirectory()
        arrays: dict[str, Any] = {"x": scene.data.x_train, "y": scene.data.y_train}
        for number, anchor in enumerate(scene.plane.anchors):
            for layer, leaves in enumerate(anchor.params):  # type: ignore[arg-type]
                arrays |= {f"{number}_{layer}_{name}": np.float32(leaf) for name, leaf in leaves.items()}
        path = Path(self._folder.name, "networks.npz")
        np.savez(path, **arrays)
        code = f"{inspect.getsource(_interpolate)}\n_interpolate()\n"
        self._process = subprocess.Popen(
            [python, "-c", code, str(path), str(len(scene.model.sizes) - 1)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "LossLandscapes":
        answer = self._answer()
        self.missing, self.versions = answer.get("missing", ""), answer.get("versions", {})
        if self.missing:
            print(
                f"{self.missing} is not installed for {self._process.args[0]}; "  # type: ignore[index]
                "install the extra 'bench', or name a Python that has it with --torch-python",
                file=sys.stderr,
            )
        return self

    def __exit__(self, *exception) -> None:
        self._process.communicate()  # a closed stdin tells it to end
        self._folder.cleanup()

    def turn(self, steps: int) -> dict[str, Any]:
        """Its losses on its points, (steps, steps), with the wall and CPU seconds that they took."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise SystemExit(f"loss-landscapes failed with exit code {self._process.wait()}; what it said is above")


def _interpolate() -> None:
    """What that process runs, from its source: `planar_interpolation` with the train loss as its metric."""
    import importlib.metadata
    import json
    import os
    import sys
    import time

    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not end up between the answers
    try:
        import loss_landscapes  # pyright: ignore[reportMissingImports]
        import numpy as np
        import torch  # pyright: ignore[reportMissingImports]
        from loss_landscapes.metrics import Loss  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "loss_landscapes"):
            raise
        print(json.dumps({"missing": error.name}), file=channel)
        return
    file, num_layers = np.load(sys.argv[1]), int(sys.argv[2])

    def network(number: int):
        layers = []
        for layer in range(num_layers):
            weight, bias = (torch.from_numpy(file[f"{number}_{layer}_{name}"]) for name in ("weight", "bias"))
            linear = torch.nn.Linear(*weight.shape)
            linear.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    networks = [network(number) for number in range(3)]
    x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]).long()
    metric = Loss(torch.nn.functional.cross_entropy, x, y)
    found = {name: importlib.metadata.version(name) for name in ("torch", "loss-landscapes")}
    print(json.dumps({"versions": found}), file=channel)
    for line in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        # without deepcopy_model it leaves the first network somewhere else
        values = loss_landscapes.planar_interpolation(*networks, metric, steps=int(line), deepcopy_model=True)
        answer = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "losses": values.tolist()}
        print(json.dumps(answer), file=channel)


def surface_in_new_process(folder: Path, num: int) -> int:
    """Peak resident bytes of a process that reads the networks of a run, evaluates the grid and does nothing else."""
    command = [sys.executable, __file__, "--surface", str(folder), str(num)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"evaluating failed with exit code {done.returncode}; what it said is above\n{done.stdout}")
    return int(done.stdout.splitlines()[-1])


def ratios(record: dict[str, Any], what: str) -> list[float]:
    """How many times as long as wspace a contender takes for a point, in each round."""
    return [a / b for a, b in zip(record["seconds"][what], record["seconds"]["wspace"], strict=True)]


def shares(record: dict[str, Any], what: str, num_flops: float) -> float:
    """Share of each round's matmul peak when a point counts so many floating-point operations; the median."""
    rounds = zip(record["seconds"][what], record["peak_flops"], strict=True)
    return statistics.median(num_flops / (seconds * peak) for seconds, peak in rounds)


def verdicts(record: dict[str, Any]) -> list[str]:
    """What is asked, what was measured, met or not; beyond what executing no more than wspace does at the peak gives."""
    lines = []
    for what, target in record["targets"].items():
        asked = f"at least {target:g} x as fast as {CONTENDERS[what]}"
        if what not in record["seconds"]:
            lines.append(f"{asked}: not measured")
            continue
        ratio = statistics.median(ratios(record, what))
        ceiling = 1 / shares(record, what, record["executed_flops"])
        line = f"{asked}: {ratio:.3g} x, {'met' if ratio >= target else 'NOT MET'}"
        if ceiling < target:
            line += f" (out of reach here: all of the matmul peak would be {ceiling:.3g} x)"
        lines.append(line)
    return lines


def wrong(record: dict[str, Any]) -> list[str]:
    """Contenders whose losses or accuracies differ from the per-point loop's by more than rounding."""
    found = []
    for name, (losses, *accuracies) in record["differs"].items():
        if not losses <= TOLERANCE:
            found.append(f"{name}: losses differ by {losses:.2g} of the per-point loop's, {TOLERANCE:g} is allowed")
        if any(not value * record["num_examples"] <= TIED + 0.5 for value in accuracies):
            found.append(f"{name}: accuracies differ by {max(accuracies):.2g}, {TIED} examples are allowed")
    return found


def markdown(record: dict[str, Any]) -> str:
    """The table, the facts and the verdicts of one job."""
    header = (
        "contender", "points", "used", "ms a point", "min - max", "of peak", "executed", "compile, s", "losses differ",
        "wspace is",
    )  # fmt: skip
    lines = []
    for key, text in CONTENDERS.items():
        name, num = text.format(at_once=record["at_once"]), f"{record['num_points'][key]:,}"
        if key not in record["seconds"]:
            lines.append((name, num, "", f"{record['missing']}: not installed", "", "", "", "", "", ""))
            continue
        seconds = record["seconds"][key]
        lines.append(
            (
                name,
                num,
                f"{statistics.median(record['cores_used'][key]):.2f}",
                f"{1e3 * statistics.median(seconds):.3g}",
                f"{1e3 * min(seconds):.3g} - {1e3 * max(seconds):.3g}",
                f"{shares(record, key, record['flops']):.0%}",
                f"{shares(record, key, record['executed_flops' if key == 'wspace' else 'flops']):.0%}",
                f"{record['compile_s'][key]:.1f}",
                f"{record['differs'][key][0]:.1g}" if key in record["differs"] else "",
                f"{statistics.median(ratios(record, key)):.3g} x",
            )
        )
    num, sizes = record["num"], "-".join(map(str, record["sizes"]))
    facts = (
        f"peak {statistics.median(record['peak_flops']) / 1e9:.0f} GFLOP/s; {record['flops'] / 1e6:.1f} MFLOP a point, of "
        f"which wspace executes {record['executed_flops'] / 1e6:.1f}; its grid takes "
        f"{num**2 * statistics.median(record['seconds']['wspace']):.3g} s, its process "
        f"{record['peak_bytes'] / 1e6:.0f} MB at most; {record['num_cores']} cores, load average "
        f"{record['load_average_before']:.2f} before"
    )
    told = [*verdicts(record), *(f"WRONG: {text}" for text in wrong(record))]
    return "\n\n".join(
        (
            f"#### {sizes}, {record['num_examples']:,} examples of {record['data']}, {num} x {num} points",
            tables.table(header, lines),
            f"{facts}; " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
            "\n".join(f"- {line}" for line in told),
        )
    )


def _timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds, result."""
    began, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - began, time.process_time() - cpu, result


def _surface(folder: Path, num: int) -> int:
    """What the new process does: read, evaluate, then one line with its peak."""
    surface(load(folder, num))
    print(memory.peak_bytes())
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with MNIST's IDX files (default: data that is drawn)"
    )
    parser.add_argument("--workloads", nargs="+", choices=("small", "wide"), default=["small", "wide"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="the contenders take turns so many times (default 3)")
    parser.add_argument(
        "--torch-python", default=sys.executable, metavar="PATH", help="the Python that has PyTorch and loss-landscapes"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="toy networks for a moment: does everything run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--surface"]:
        sys.exit(_surface(Path(sys.argv[2]), int(sys.argv[3])))
    sys.exit(main())
