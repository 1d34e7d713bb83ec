"""How fast are the curvatures of a population and a census of its minima: beside what others use, and of what is possible?

    python runs/benchmarks/curvature.py [--peer-networks 8] [--rounds 5] [--parts curvature census] [--torch-python PATH]
        [--write]

Extreme eigenvalues and spectral densities of the Hessians of networks in the middle of their training, everybody at the
same accuracy; then restarts on XOR, from the spec to the number of their minima. How it is measured is in README.md. The
exit code is 1 when a result is less accurate than asked, not when a target is missed.
"""

import argparse
import contextlib
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import tables
from contenders import matmul
from memory import peak_bytes
from teams import ALL, EACH, ONE, PAUSE_SECONDS
from worker import versions

from analysis.census import census
from analysis.curvature import Objective, extremes, hessian_products, hessians, spectra
from analysis.curvature.spectrum import SMOOTH
from wspace import open_run
from wspace import spec as specs
from wspace.cores import FLAG
from wspace.models import MLP
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
from wspace.tree import Layout, Params, pick

DIGITS = Path(__file__).parents[1] / "digits.toml"
TOLERANCE = 1e-4  # of residuals and eigenvalues, relative to the largest |eigenvalue|
WIDE, FARTHER = 0.5, 1.5  # width of a kernel; with it as many times as far from the exact density as plain code: WRONG
TARGET, CENSUS_TARGET = 5.0, 60.0  # times as fast as a peer, at least; seconds, at most
SUBSPACES, TOLERANCES = (1, 1.5, 2, 3, 4, 6), 10.0 ** np.arange(1, -5, -0.25)  # what is tried for ARPACK: ncv, tol
PARTS, KINDS = ("curvature", "census"), ("extremes", "density")
STAGES = ("training", "polishing", "certificates", "counting")  # of a census
CONTENDERS = {  # -> name in the table, how it gets the cores
    "wspace": ("wspace", (ALL,)),
    "jax-loop": ("network by network, jitted JAX", (ALL, EACH)),
    "curvlinops": ("curvlinops, PyTorch", (ALL, ONE, EACH)),
}


class Sizes(NamedTuple):
    """What is trained and computed.

    Attributes:
        hidden, num_steps, networks: of the population.
        largest, smallest: eigenvalues from either end.
        probes, steps: of the density.
        restarts, units: of each census, and hidden units of its networks.
    """

    hidden: tuple[int, ...] = (32, 32)
    num_steps: int = 150
    networks: int = 32
    largest: int = 20
    smallest: int = 2
    probes: int = 4
    steps: int = 80
    restarts: int = 1000
    units: tuple[int, ...] = (2, 4)


QUICK = Sizes((8, 8), 40, 3, largest=4, smallest=1, probes=2, steps=30, restarts=12, units=(2,))


class Scene(NamedTuple):
    """Trained networks, stacked, and the function whose Hessians are wanted."""

    objective: Objective
    params: Params

    @property
    def layout(self) -> Layout:
        """Of one network."""
        return Layout.of(pick(self.params, 0))

    @property
    def theta(self) -> np.ndarray:
        """(network, param), float64."""
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(self.params)]
        return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)

    def some(self, networks: list[int]) -> Params:
        """Several of the networks, stacked."""
        return jax.tree.map(lambda leaf: leaf[networks], self.params)


def main(argv: list[str] | None = None) -> int:
    """Train, measure, check, print, and write where asked."""
    args = _arguments(argv)
    sizes, rounds = (QUICK, min(args.rounds, 2)) if args.quick else (Sizes(), args.rounds)
    record: dict[str, Any] = {
        **tables.environment(), "num_cores": tables.num_cores(), "rounds": rounds, "sizes": sizes._asdict(),
        "load_average_before": os.getloadavg()[0], "versions": versions(),
    }  # fmt: skip
    if "curvature" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            print("training", file=sys.stderr)
            train(digits(sizes), Path(folder, "run"))
            record["curvature"] = measure(Path(folder), sizes, rounds, args)
    if "census" in args.parts:
        record["census"] = [census_in_new_process(units, sizes.restarts) for units in sizes.units]
    record["load_average_after"] = os.getloadavg()[0]
    print(text := markdown(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        tables.show("curvature", f"{tables.heading(record)}; medians of {rounds} rounds.\n\n{text}")
    return 1 if wrong(record.get("curvature")) else 0


def digits(sizes: Sizes) -> Spec:
    """runs/digits.toml with few steps."""
    spec = specs.load(DIGITS)
    replace = msgspec.structs.replace
    return replace(
        spec, model=replace(spec.model, hidden=sizes.hidden), train=replace(spec.train, num_steps=sizes.num_steps),
        checkpoints=CheckpointSpec(num=2), seeds=SeedSpec(num=sizes.networks),
    )  # fmt: skip


def load(folder: Path) -> Scene:
    """The scene of a run."""
    run = open_run(folder)
    return Scene(Objective(run.model, run.loss_kind, run.data, "train", run.spec.objective.l2), run.params())


# --- what the contenders do, in processes of their own; PyTorch's runs under a Python that may have nothing of wspace


def serve(prepare: Callable[[dict[str, Any]], tuple[dict[str, Callable], dict[str, str]]]) -> int:
    """Answer with one JSON object a line: first what was prepared, then one for each request; arrays go to a file."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not end up between the answers
    job = json.loads(sys.argv[-1])
    if job["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[job["core"]]})
    try:
        began = time.perf_counter()
        turns, found = prepare(job)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "curvlinops"):  # what the benchmarks can do without
            raise
        print(json.dumps({"missing": error.name}), file=channel)
        return 0
    print(json.dumps({"seconds": time.perf_counter() - began, "versions": found}), file=channel)
    for line in sys.stdin:
        request = json.loads(line)
        began, cpu = time.perf_counter(), time.process_time()
        first, second, products = turns[request["kind"]](request)
        answer = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        np.savez(job["answer"], first=first, second=second)
        print(json.dumps(answer | {"products": products, "peak_bytes": peak_bytes()}), file=channel)
    return 0


def eigenpairs(product: Callable, start: np.ndarray, ends: list) -> tuple[np.ndarray, np.ndarray, int]:
    """ARPACK's eigenvalues, from the largest down, unit eigenvectors as rows, and products spent.

    Args:
        product: v -> H v.
        start: where it begins, (param,).
        ends: (which, how many, ncv, tol) of each end, LA first.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    spent, values, vectors = 0, [], []

    def counted(v):
        nonlocal spent
        spent += 1
        return product(v.ravel())

    for which, num, ncv, tol in ends:
        operator = LinearOperator((len(start), len(start)), matvec=counted, dtype=np.float64)  # pyright: ignore
        some, columns = eigsh(operator, num, which=which, ncv=ncv, tol=tol, v0=start)
        order = np.argsort(-some)
        values.append(some[order])
        vectors.append(columns.T[order])
    return np.concatenate(values), np.concatenate(vectors), spent


def together(found: list) -> tuple[np.ndarray, np.ndarray, int]:
    """Of several networks."""
    values, vectors, products = zip(*found, strict=True)
    return np.stack(values), np.stack(vectors), sum(products)


def quadrature(product: Callable, start: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights by Lanczos with full reorthogonalisation, as one writes it in NumPy."""
    basis, diagonal, off = np.zeros((num_steps, len(start))), np.zeros(num_steps), np.zeros(num_steps)
    v = start / np.linalg.norm(start)
    for step in range(num_steps):
        basis[step] = v
        v = product(v)
        diagonal[step] = v @ basis[step]
        for _ in range(2):
            v = v - basis[: step + 1].T @ (basis[: step + 1] @ v)
        off[step] = np.linalg.norm(v)
        v = v / off[step]
    nodes, columns = np.linalg.eigh(np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1))
    return nodes, columns[0] ** 2


def wspace_turns(job: dict[str, Any]) -> tuple[dict[str, Callable], dict[str, str]]:
    """`analysis.curvature`, all networks at once."""
    scene, sizes = load(Path(job["folder"], "run")), Sizes(**job["sizes"])

    def ends(request):
        found = extremes(
            scene.objective, scene.some(request["networks"]), sizes.largest, sizes.smallest,
            rng=np.random.default_rng(0), tolerance=job["tolerance"],
        )  # fmt: skip
        return found.values, found.vectors, int(found.num_products.sum())

    def density(request):
        num = len(request["networks"])
        found = spectra(
            scene.objective, scene.some(request["networks"]), rng=np.random.default_rng(0),
            num_probes=sizes.probes, num_steps=sizes.steps,
        )  # fmt: skip
        return found.nodes, found.weights, num * sizes.probes * sizes.steps

    return {"extremes": ends, "density": density}, versions()


def loop_turns(job: dict[str, Any]) -> tuple[dict[str, Callable], dict[str, str]]:
    """One network after another: a jitted product in float64, called from SciPy and from NumPy."""
    jax.config.update("jax_enable_x64", True)
    scene, sizes = load(Path(job["folder"], "run")), Sizes(**job["sizes"])
    model, layout, l2 = scene.objective.model, scene.layout, scene.objective.l2
    x, y = scene.objective.examples
    x, y, thetas = jnp.asarray(x, float), jnp.asarray(y), jnp.asarray(scene.theta)
    starts = np.load(Path(job["folder"], "arrays.npz"))["starts"]

    def loss(theta, x, y):
        outputs = model.apply(layout.unravel(theta), x)
        data = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, y))
        return data + l2 / 2 * jnp.vdot(theta, theta)

    @jax.jit
    def compiled(theta, v, x, y):
        return jax.jvp(lambda theta: jax.grad(loss)(theta, x, y), (theta,), (v,))[1]

    def product(network):
        return lambda v: np.asarray(compiled(thetas[network], v, x, y))

    def ends(request):
        return together([eigenpairs(product(i), starts[i], request["ends"][i]) for i in request["networks"]])

    def density(request):
        rng = np.random.default_rng(request["networks"])
        found = [
            [quadrature(product(i), rng.standard_normal(layout.size), sizes.steps) for _ in range(sizes.probes)]
            for i in request["networks"]
        ]
        return *np.moveaxis(np.array(found), 2, 0), len(found) * sizes.probes * sizes.steps

    return {"extremes": ends, "density": density}, versions()


def curvlinops_turns(job: dict[str, Any]) -> tuple[dict[str, Callable], dict[str, str]]:
    """curvlinops' Hessian of one network after another, all examples in one batch, and its own Lanczos for the density."""
    import importlib.metadata

    import torch  # pyright: ignore[reportMissingImports]
    from curvlinops import HessianLinearOperator  # pyright: ignore[reportMissingImports]
    from curvlinops.papyan2020traces.spectrum import fast_lanczos  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(job["threads"])
    file, l2, sizes = np.load(Path(job["folder"], "arrays.npz")), job["l2"], job["sizes"]
    x, y, order = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]), file["order"]

    def operator(network):
        layers = []
        for fan_in, fan_out in zip(job["layers"], job["layers"][1:], strict=False):
            layers += [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        torch.nn.utils.vector_to_parameters(torch.from_numpy(file["theta"][network][order]), model.parameters())
        return HessianLinearOperator(
            model, torch.nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False,
            num_data=len(x),
        )  # fmt: skip

    def ends(request):
        values, found, products = together(
            [
                eigenpairs(operator(i).to_scipy().matvec, file["starts"][i][order], request["ends"][i])
                for i in request["networks"]
            ]
        )
        vectors = np.empty_like(found)
        vectors[..., order] = found
        return values + l2, vectors, products  # the L2 term adds l2 to every eigenvalue

    def density(request):
        torch.manual_seed(0)
        found = [
            [fast_lanczos(operator(i), sizes["steps"]) for _ in range(sizes["probes"])] for i in request["networks"]
        ]
        nodes = np.array([[nodes.numpy() for nodes, _ in probes] for probes in found])
        weights = np.array([[columns[0].numpy() ** 2 for _, columns in probes] for probes in found])
        return nodes + l2, weights, nodes.size

    found = {name: importlib.metadata.version(name) for name in ("torch", "curvlinops-for-pytorch")}
    return {"extremes": ends, "density": density}, found


class Team:
    """The processes of one contender in one mode, kept from round to round; a context manager.

    Attributes:
        name, mode: who, and how it gets the cores.
        missing: the package that is not installed; then it has no turns.
        versions: of its packages.
    """

    def __init__(self, name: str, mode: str, job: dict[str, Any], python: str):
        self.name, self.mode = name, mode
        cores = tables.num_cores()
        devices = cores if name == "wspace" else 1
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{FLAG}={devices}"}
        if name != "wspace":  # NumPy's threads and those that compute products would wait for each other
            environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": str(cores) if mode == ALL else "1"}
        self._answers, self._processes = [], []
        for core in range(cores) if mode == EACH else [None]:
            self._answers.append(Path(job["folder"], f"{name}-{mode[0]}-{core or 0}.npz"))
            own = {"core": core, "threads": cores if mode == ALL else 1, "answer": str(self._answers[-1])}
            command = [python, *_command(name), json.dumps(job | own)]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )

    def __enter__(self) -> "Team":
        told = [self._answer(process) for process in self._processes]
        self.missing, self.versions = told[0].get("missing", ""), told[0].get("versions", {})
        return self

    def __exit__(self, *exception) -> None:
        for process in self._processes:
            process.communicate()  # a closed stdin tells it to end

    def turn(self, kind: str, networks: list[int], ends: list) -> dict[str, Any]:
        """All processes at once, each with its share of the networks: networks a second, CPU seconds, products, arrays."""
        time.sleep(PAUSE_SECONDS)
        shares = [networks[index :: len(self._processes)] for index in range(len(self._processes))]
        for process, share in zip(self._processes, shares, strict=True):
            assert process.stdin is not None
            print(json.dumps({"kind": kind, "networks": share, "ends": ends}), file=process.stdin, flush=True)
        told = [self._answer(process) for process in self._processes]
        files = [np.load(path) for path in self._answers]
        order = np.argsort(np.concatenate(shares))
        return {
            "seconds": 1 / sum(len(share) / one["seconds"] for share, one in zip(shares, told, strict=True)),
            "used": sum(one["cpu"] / one["seconds"] for one in told),
            "products": sum(one["products"] for one in told) / len(networks),
            "peak_bytes": sum(one["peak_bytes"] for one in told),
            "first": np.concatenate([file["first"] for file in files])[order],
            "second": np.concatenate([file["second"] for file in files])[order],
        }

    def _answer(self, process: subprocess.Popen) -> dict[str, Any]:
        assert process.stdout is not None
        if line := process.stdout.readline():
            return json.loads(line)
        raise SystemExit(f"{self.name}, {self.mode}: failed with exit code {process.wait()}; what it said is above")


def _command(name: str) -> list[str]:
    """wspace and the loop by this file; curvlinops by the source of its functions alone."""
    if name != "curvlinops":
        return [__file__, "--serve", name]
    imports = (
        "import json, os, resource, sys, time\nfrom collections.abc import Callable\nfrom pathlib import Path\n"
        "from typing import Any\nimport numpy as np\n"
    )
    parts = map(inspect.getsource, (peak_bytes, serve, eigenpairs, together, curvlinops_turns))
    return ["-c", "\n\n".join((imports, *parts, "serve(curvlinops_turns)"))]


def measure(folder: Path, sizes: Sizes, rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every contender in turn, `rounds` times, then how accurate their last results are."""
    scene = load(Path(folder, "run"))
    objective, layout = scene.objective, scene.layout
    assert isinstance(objective.model, MLP)
    num = min(args.peer_networks, len(scene.theta))
    starts = np.random.default_rng(1).standard_normal((num, layout.size))
    print("computing all entries of the Hessians", file=sys.stderr)
    exact, ends = map(list, zip(*(calibrate(dense(scene, i), starts[i], sizes) for i in range(num)), strict=True))
    np.savez(
        Path(folder, "arrays.npz"), x=np.float64(objective.examples[0]), y=np.int64(objective.examples[1]),
        theta=scene.theta, starts=starts, order=torch_order(layout),
    )  # fmt: skip
    job = {
        "folder": str(folder), "sizes": sizes._asdict(), "tolerance": TOLERANCE, "l2": objective.l2,
        "layers": objective.model.sizes,
    }  # fmt: skip
    record: dict[str, Any] = {
        "objective": objective.name, "layers": objective.model.sizes, "num_params": layout.size,
        "num_networks": len(scene.theta), "num_peer_networks": num, "flops": flops(scene), "peak_flops": [],
        "ends": ends, "scales": [float(np.abs(values).max()) for values in exact], "versions": {}, "rows": [],
        "exact": [[*values[::-1][: sizes.largest], *values[: sizes.smallest][::-1]] for values in exact],
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        teams, results = [], {}
        for name in args.contenders:
            for mode in CONTENDERS[name][1]:
                python = args.torch_python if name == "curvlinops" else sys.executable
                team = stack.enter_context(Team(name, mode, job, python))
                record["versions"] |= team.versions
                networks = list(range(len(scene.theta) if name == "wspace" else num))
                for kind in KINDS:
                    row = {"kind": kind, "contender": name, "mode": mode, "num_networks": len(networks)}
                    row |= {"seconds": [], "used": [], "products": 0.0, "peak_bytes": 0, "missing": team.missing}
                    record["rows"].append(row)
                    if not team.missing:
                        print(f"{name}, {mode}: {kind}, first call", file=sys.stderr)
                        row["first_s"] = team.turn(kind, networks, ends)["seconds"] * len(networks)
                        teams.append((team, kind, networks, row))
                if team.missing:
                    print(
                        f"{team.missing} is not installed for {python}; install the extra 'bench', or name a Python that "
                        "has it with --torch-python", file=sys.stderr,
                    )  # fmt: skip
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}, load average {os.getloadavg()[0]:.2f}", file=sys.stderr)
            time.sleep(PAUSE_SECONDS)
            record["peak_flops"].append(peak_flops())
            for team, kind, networks, row in teams:
                answer = team.turn(kind, networks, ends)
                row["seconds"].append(answer["seconds"])
                row["used"].append(answer["used"])
                row["products"], row["peak_bytes"] = answer["products"], answer["peak_bytes"]
                results[kind, team.name, team.mode] = answer["first"], answer["second"]
    for _, kind, networks, row in teams:
        row["compile_s"] = max(0.0, row["first_s"] - len(networks) * statistics.median(row["seconds"]))
        found = results[kind, row["contender"], row["mode"]]
        row |= check_extremes(scene, record, *found) if kind == "extremes" else check_density(exact, *found)
    return record


def calibrate(
    hessian: np.ndarray, start: np.ndarray, sizes: Sizes
) -> tuple[np.ndarray, list[tuple[str, int, int, float]]]:
    """All eigenvalues, ascending, and with which ncv and tol ARPACK takes the fewest products within TOLERANCE.

    ARPACK's tol is relative to each eigenvalue and has to be chosen. In the basis of the eigenvectors it takes the same
    steps as with products that are computed.

    Returns:
        The eigenvalues, and (which, how many, ncv, tol) of both ends.

    Raises:
        ValueError: nothing that is tried is accurate enough.
    """
    values, columns = np.linalg.eigh(hessian)
    inside, allowed, chosen = columns.T @ start, TOLERANCE * np.abs(values).max(), []
    for which, num in (("LA", sizes.largest), ("SA", sizes.smallest)):
        least, best = math.inf, None
        for factor in SUBSPACES:
            ncv = min(len(values), round(factor * max(2 * num + 1, 20)))
            for tol in TOLERANCES:
                found, vectors, products = eigenpairs(lambda v: values * v, inside, [(which, num, ncv, tol)])
                if products >= least:
                    break
                wanted = values[::-1][:num] if which == "LA" else values[:num][::-1]
                residuals = np.linalg.norm(values * vectors - found[:, None] * vectors, axis=1)
                if max(residuals.max(), np.abs(found - wanted).max()) <= 0.99 * allowed:
                    least, best = products, (which, num, ncv, float(tol))
                    break
        if best is None:
            raise ValueError(f"{which}: no ncv and tol gives eigenvalues within {TOLERANCE:g} of the largest one")
        chosen.append(best)
    return values, chosen


def dense(scene: Scene, network: int) -> np.ndarray:
    """All entries of one network's Hessian."""
    return hessians(scene.objective, pick(scene.params, network), batch_ndim=0)


def torch_order(layout: Layout) -> np.ndarray:
    """Where PyTorch's params, weight (out, in) and bias of each layer, lie in theta."""
    layers = layout.unravel(np.arange(layout.size, dtype=float))
    return np.concatenate([part.ravel() for layer in layers for part in (layer["weight"].T, layer["bias"])]).astype(int)


def flops(scene: Scene) -> float:
    """Floating-point operations of the matmuls of one product H v: 2 N (8 M - 5 M_1).

    N examples, M multiply-adds an example in all layers, M_1 in the first. Outputs take M and gradients of activations
    M - M_1; their derivatives along v 2 M - M_1 and 2 (M - M_1), those of the gradients of the weights 2 M - M_1.
    """
    model, (x, _) = scene.objective.model, scene.objective.examples
    layers = [a * b for a, b in zip(model.sizes, model.sizes[1:], strict=False)]  # type: ignore[attr-defined]
    return 2.0 * len(x) * (8 * sum(layers) - 5 * layers[0])


def peak_flops() -> float:
    """Floating-point operations a second of a float64 matmul, by NumPy or JAX, whichever is faster."""
    matrix = np.random.default_rng(0).standard_normal((matmul.SIZES["cpu"], matmul.SIZES["cpu"]))
    with jax.enable_x64(True):
        placed, compiled = jnp.asarray(matrix), jax.jit(jnp.matmul)
        compiled(placed, placed).block_until_ready()
        times = {"numpy": [], "jax": []}
        for _ in range(matmul.REPEATS):
            for name, multiply in (
                ("numpy", lambda: matrix @ matrix),
                ("jax", lambda: compiled(placed, placed).block_until_ready()),
            ):
                began = time.perf_counter()
                multiply()
                times[name].append(time.perf_counter() - began)
    return 2 * matmul.SIZES["cpu"] ** 3 / min(map(statistics.median, times.values()))


def check_extremes(scene: Scene, record: dict[str, Any], values: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    """Largest residual, by the same products for everybody, and largest error: relative to the largest |eigenvalue|."""
    products = hessian_products(scene.objective, scene.some(list(range(len(values)))), vectors)
    residuals = np.linalg.norm(products - values[..., None] * vectors, axis=-1)
    num, scales = len(record["exact"]), np.array(record["scales"])
    errors = np.abs(values[:num] - np.array(record["exact"])).max(axis=1) / scales
    own = np.abs(values).max(axis=1)  # there is no exact one for all networks
    return {"residual": float(np.max(residuals / own[:, None])), "off": float(errors.max())}


def check_density(exact: Sequence[np.ndarray], nodes: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """int |p - q| du, u = asinh(eigenvalue / scale), of the estimated and the exact density: the mean over networks.

    Smoothed as `Spectra.density` does it, and by a WIDE kernel.
    """
    found = {"distance": [], "wide": []}
    for values, some, shares in zip(exact, nodes, weights, strict=False):
        scale = 1e-4 * np.abs(values).max()
        low, high = (np.arcsinh(end / scale) for end in (min(values.min(), some.min()), max(values.max(), some.max())))
        for name, width in (("distance", SMOOTH), ("wide", WIDE)):
            grid = np.arange(low - 5 * width, high + 5 * width, SMOOTH / 8)
            every = smoothed(values, np.ones(len(values)), grid, scale, width)
            found[name].append(np.abs(smoothed(some, shares, grid, scale, width) - every).sum() * SMOOTH / 8)
    return {name: float(np.mean(distances)) for name, distances in found.items()}


def smoothed(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, scale: float, width: float) -> np.ndarray:
    """Density of u = asinh(node / scale) at points u of a grid, all probes together."""
    u = np.arcsinh(nodes.ravel() / scale)
    kernel = np.exp(-0.5 * np.square((grid[:, None] - u) / width)) / (math.sqrt(2 * math.pi) * width)
    return kernel @ weights.ravel() / weights.sum()


def row_of(record: dict[str, Any], kind: str, name: str, mode: str = ALL) -> dict[str, Any] | None:
    """A row that was measured."""
    rows = (row for row in record["rows"] if (row["kind"], row["contender"], row["mode"]) == (kind, name, mode))
    return next((row for row in rows if row["seconds"]), None)


def ratios(record: dict[str, Any], row: dict[str, Any]) -> list[float]:
    """How many times as long as wspace a contender takes for a network, in each round; nothing without wspace."""
    own = row_of(record, row["kind"], "wspace")
    return [a / b for a, b in zip(row["seconds"], own["seconds"], strict=True)] if own else []


def share(record: dict[str, Any], row: dict[str, Any], products: float) -> float:
    """Share of the float64 matmul peak when a network counts so many products; the median of all rounds."""
    rounds = zip(row["seconds"], record["peak_flops"], strict=True)
    return statistics.median(products * record["flops"] / (seconds * peak) for seconds, peak in rounds)


def verdicts(record: dict[str, Any]) -> list[str]:
    """What is asked of both kinds beside every peer, what was measured, met or not.

    A peer counts in one process, with the better number of threads; its fastest setting stands beside it.
    """
    lines = []
    for kind in KINDS:
        own = row_of(record, kind, "wspace")
        for name, (text, modes) in CONTENDERS.items():
            if name == "wspace":
                continue
            rows = [row for mode in modes if (row := row_of(record, kind, name, mode))]
            asked = f"{kind}: at least {TARGET:g} x as fast as {text}"
            if own is None or not rows:
                lines.append(f"{asked}: not measured")
                continue
            median = lambda row: statistics.median(ratios(record, row))  # noqa: E731
            best = min((row for row in rows if row["mode"] != EACH), key=median)
            fastest = min(rows, key=median)
            ratio, ceiling = median(best), 1 / share(record, best, own["products"])
            line = f"{asked} ({best['mode']}): {ratio:.3g} x, {'met' if ratio >= TARGET else 'NOT MET'}"
            if ceiling < TARGET:
                line += f" (out of reach here: all of the matmul peak would be {ceiling:.3g} x)"
            lines.append(f"{line}; {median(fastest):.3g} x its fastest setting, {fastest['mode']}")
    return lines


def wrong(record: dict[str, Any] | None) -> list[str]:
    """Contenders that are less accurate than asked."""
    found = []
    if record is None:
        return found
    for row in (row for row in record["rows"] if row["seconds"]):
        who = f"{CONTENDERS[row['contender']][0]}, {row['mode']}"
        for key, text in (("residual", "a residual is"), ("off", "an eigenvalue is off by")):
            if key in row and not row[key] <= TOLERANCE:
                found.append(f"{who}: {text} {row[key]:.2g} of the largest eigenvalue, {TOLERANCE:g} is allowed")
        loop = row_of(record, "density", "jax-loop")
        if loop and "wide" in row and not row["wide"] <= FARTHER * loop["wide"]:
            found.append(f"{who}: its density is {row['wide']:.2g} from the exact one, plain code's {loop['wide']:.2g}")
    return found


def xor(units: int, restarts: int, file: Path) -> Spec:
    """Restarts of networks 2-units-2 of tanh on the four points, all of them at every step, as runs/xor_minima.py has it."""
    x, y = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array([0, 1, 1, 0])
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return Spec(
        name="xor", data=DataSpec(name="npz", path=str(file)), objective=ObjectiveSpec(l2=1e-3),
        model=ModelSpec(hidden=(units,), activation="tanh", init="glorot"), optimizer=OptimizerSpec(learning_rate=1e-2),
        schedule=ScheduleSpec(kind="cosine"), train=TrainSpec(num_steps=1000, batch_size=0),
        checkpoints=CheckpointSpec(num=2), seeds=SeedSpec(num=restarts),
    )  # fmt: skip


def count_minima(units: int, restarts: int) -> dict[str, Any]:
    """From the spec to the number of minima: seconds of every stage, and what was found."""
    began, done = time.perf_counter(), {}

    def note(text: str) -> None:
        done[text.split()[0].strip(":")] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        run = train(xor(units, restarts, Path(folder, "xor.npz")), Path(folder, "run"))
        assert isinstance(run.model, MLP)
        objective, params = Objective(run.model, run.loss_kind, run.data, "train", run.spec.objective.l2), run.params()
    note("training")
    symmetry, rng = run.model.symmetry, np.random.default_rng(0)
    found = census(objective, params, symmetry=symmetry, rng=rng, progress=note)
    note("counting")
    times = [began, *(done[stage] for stage in STAGES)]
    return {
        "seconds": dict(zip(STAGES, np.diff(times).tolist(), strict=True)), "num_restarts": len(found.polished.before),
        "num_params": Layout.of(pick(params, 0)).size, "labels": found.certificates.counts(),
        "num_minima": found.num_minima, "by_function": found.by_function,
        "unseen": found.unseen.value if found.unseen else None, "peak_bytes": peak_bytes(),
    }  # fmt: skip


def census_in_new_process(units: int, restarts: int) -> dict[str, Any]:
    """The same census twice in a fresh process: the first compiles. `all_s` counts starting Python and imports as well."""
    print(f"census of {restarts} networks 2-{units}-2", file=sys.stderr)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, "--census", str(units), str(restarts)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{FLAG}={tables.num_cores()}"},
    )  # fmt: skip
    assert process.stdout is not None
    lines, all_s = [], 0.0
    for line in process.stdout:
        all_s = all_s or time.perf_counter() - began
        lines.append(line)
    if process.wait():
        raise SystemExit(f"the census failed with exit code {process.returncode}; what it said is above")
    first, second = (json.loads(line) for line in lines[-2:])
    return {"units": units, "all_s": all_s, "first": first, "second": second}


def markdown(record: dict[str, Any]) -> str:
    """All tables, facts and verdicts."""
    parts = [curvature_text(record["curvature"])] if "curvature" in record else []
    parts += [census_text(record["census"])] if "census" in record else []
    before, after, cores = (record[name] for name in ("load_average_before", "load_average_after", "num_cores"))
    facts = f"{cores} cores, load average {before:.2f} before and {after:.2f} after"
    if before > 0.5 * cores:
        facts += ", so other programs shared the cores: times are too long and vary"
    found = record["versions"] | record.get("curvature", {}).get("versions", {})
    return "\n\n".join((*parts, f"{facts}; " + ", ".join(f"{name} {version}" for name, version in found.items())))


def curvature_text(record: dict[str, Any]) -> str:
    """Two tables, of the extreme eigenvalues and of the density, and what they are judged by."""
    parts = []
    sizes = "-".join(map(str, record["layers"]))
    for kind in KINDS:
        accuracy = {"extremes": ("residual", "off by"), "density": ("L1 to exact", "wide kernel")}[kind]
        header = (
            "contender", "cores", "networks", "used", "products a network", "s a network", "min - max", "ms a product",
            "of peak", "compile, s", "peak resident, MB", *accuracy, "wspace is", "min - max",
        )  # fmt: skip
        lines = []
        for row in (row for row in record["rows"] if row["kind"] == kind):
            who = (CONTENDERS[row["contender"]][0], row["mode"], str(row["num_networks"]))
            if row["missing"]:
                lines.append((*who, *[""] * 2, f"{row['missing']}: not installed", *[""] * (len(header) - 6)))
                continue
            seconds, times = row["seconds"], ratios(record, row)
            found = (row["residual"], row["off"]) if kind == "extremes" else (row["distance"], row["wide"])
            lines.append(
                (
                    *who, f"{statistics.median(row['used']):.2f}", f"{row['products']:,.0f}",
                    f"{statistics.median(seconds):.3g}", f"{min(seconds):.3g} - {max(seconds):.3g}",
                    f"{1e3 * statistics.median(seconds) / row['products']:.3g}",
                    f"{share(record, row, row['products']):.0%}", f"{row['compile_s']:.1f}",
                    f"{row['peak_bytes'] / 1e6:,.0f}", *(f"{value:.2g}" for value in found),
                    f"{statistics.median(times):.3g} x" if times else "",
                    f"{min(times):.3g} - {max(times):.3g}" if times and row["contender"] != "wspace" else "",
                )
            )  # fmt: skip
        parts.append(f"#### {kind.capitalize()}, {sizes}\n\n{tables.table(header, lines)}")
    facts = (
        f"Hessians of {record['num_params']:,} params, {record['objective']}; peak "
        f"{statistics.median(record['peak_flops']) / 1e9:.0f} GFLOP/s in float64; "
        f"{record['flops'] / 1e6:.1f} MFLOP a product"
    )
    told = [*verdicts(record), *(f"WRONG: {text}" for text in wrong(record))]
    return "\n\n".join((*parts, facts, "\n".join(f"- {line}" for line in told)))


def census_text(rows: list[dict[str, Any]]) -> str:
    """The table of the censuses, and whether they take little enough."""
    header = (
        "network", "params", "restarts", "seconds", *STAGES, "compile, s", "with imports, s", "peak resident, MB",
        "certified", "minima", "at least",
    )  # fmt: skip
    lines, told = [], []
    for row in rows:
        first, second = row["first"], row["second"]
        seconds, again = (sum(one["seconds"].values()) for one in (first, second))
        certified = first["labels"]["strict minimum"] + first["labels"]["degenerate minimum"]
        lines.append(
            (
                f"2-{row['units']}-2", str(first["num_params"]), f"{first['num_restarts']:,}", f"{seconds:.1f}",
                *(f"{first['seconds'][stage]:.1f}" for stage in STAGES), f"{max(0.0, seconds - again):.1f}",
                f"{row['all_s']:.1f}", f"{first['peak_bytes'] / 1e6:,.0f}", f"{certified:,}", str(first["num_minima"]),
                "" if first["unseen"] is None else f"{first['unseen']:.1f}",
            )
        )  # fmt: skip
        asked = f"2-{row['units']}-2: at most {CENSUS_TARGET:g} s from the spec to the end, compilation included"
        told.append(f"- {asked}: {seconds:.3g} s, {'met' if seconds <= CENSUS_TARGET else 'NOT MET'}")
    return "\n\n".join(("#### A census of XOR", tables.table(header, lines), "\n".join(told)))


def _serve(name: str) -> int:
    return serve({"wspace": wspace_turns, "jax-loop": loop_turns}[name])


def _census(units: int, restarts: int) -> int:
    for _ in range(2):
        print(json.dumps(count_minima(units, restarts)), flush=True)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument(
        "--peer-networks", type=int, default=8, metavar="NUM", help="of the 32 that peers are given (default 8)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="the contenders take turns so many times (default 5)")
    parser.add_argument(
        "--torch-python", default=sys.executable, metavar="PATH", help="the Python that has PyTorch and curvlinops"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="toy networks for a moment: does everything run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.exit(_serve(sys.argv[2]))
    if sys.argv[1:2] == ["--census"]:
        sys.exit(_census(int(sys.argv[2]), int(sys.argv[3])))
    sys.exit(main())
