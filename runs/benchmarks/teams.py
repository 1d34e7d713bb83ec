"""Contenders at work: every setting of every contender in processes of its own, all of them in turn."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import tables
from workloads import Workload

ALL, ONE, EACH, GPU = "all cores", "1 thread", "1 process per core", "GPU"
PEAK = "matmul"
GPU_NETWORKS = 16  # times as many networks on a GPU as on cores
PAUSE_SECONDS = 0.3  # before a turn: the thread pools of the one before fall asleep


class Contender(NamedTuple):
    """A way of training, and the settings in which it is tried.

    Attributes:
        module: its file below contenders/.
        modes: how it gets the cores.
        variants: own or shared order of examples.
    """

    module: str
    modes: tuple[str, ...]
    variants: tuple[str, ...]


CONTENDERS = {
    "wspace": Contender("wspace_engine", (ALL,), ("own", "shared")),
    "torch-vmap": Contender("torch_vmap", (ALL, EACH), ("own", "shared")),
    "torch-loop": Contender("torch_loop", (ALL, ONE, EACH), ("own",)),
    "sklearn": Contender("sklearn_mlp", (ALL, ONE, EACH), ("own",)),
    "jax-loop": Contender("jax_loop", (ALL, EACH), ("own",)),
}
YARDSTICK = Contender("matmul", (ALL,), ("numpy", "jax"))

ON_GPU = {  # the same programs where there is a GPU, and wspace on the cores beside it
    "wspace": Contender("wspace_engine", (ALL, GPU), ("own",)),
    "torch-vmap": Contender("torch_vmap", (GPU,), ("own",)),
    "torch-loop": Contender("torch_loop", (GPU,), ("own",)),
    "jax-loop": Contender("jax_loop", (GPU,), ("own",)),
}
YARDSTICK_GPU = Contender("matmul", (ALL, GPU), ("jax",))


@dataclasses.dataclass
class Row:
    """One contender in one setting on one workload.

    Attributes:
        contender, mode, variant: who, and in which setting.
        rates: net-steps (of the yardstick: FLOP) per second in each round.
        losses: mean final loss (nats) in each round.
        compile_s: what preparing, compiling and the first turn took beyond a later turn.
        versions: of Python and the packages that matter.
        missing: the package that is not installed; then there are no numbers.
    """

    contender: str
    mode: str
    variant: str
    rates: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    compile_s: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: str = ""

    @property
    def name(self) -> str:
        """Who and how, for people."""
        return f"{self.contender}, {self.variant} order, {self.mode}"


class Team:
    """The processes of one row, kept from round to round: one, or one for each core; a context manager."""

    def __init__(self, row: Row, module: str, workload: Workload, python: str):
        self.row, self.python = row, python
        cores = tables.num_cores() if row.mode == EACH else 1
        share = dataclasses.replace(workload, num_seeds=max(1, workload.num_seeds // cores))
        platform = "gpu" if row.mode == GPU else "cpu"
        work = dataclasses.asdict(share)
        job = {"contender": module, "variant": row.variant, "platform": platform, "workload": work}
        environment = {**os.environ, **_environment(row)}
        self.processes = [
            subprocess.Popen(
                [python, str(Path(__file__).with_name("worker.py")), json.dumps({**job, "core": core})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for core in (range(cores) if row.mode == EACH else [None])
        ]

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            process.communicate()  # a closed stdin tells it to end

    def prepare(self) -> None:
        """Wait until all have built, compiled and trained once."""
        answers = [self._answer(process) for process in self.processes]
        if missing := answers[0].get("missing", ""):
            self.row.missing = missing
            print(
                f"{self.row.name}: {missing} is not installed for {self.python}; "
                "install the extra 'bench', or name a Python that has it with --torch-python",
                file=sys.stderr,
            )
        self.row.versions = answers[0].get("versions", {})
        self.first_s = max(answer.get("first_s", math.nan) for answer in answers)

    def round(self, seconds: float) -> None:
        """Let all train at once, and note the sum of their rates."""
        time.sleep(PAUSE_SECONDS)
        for process in self.processes:
            assert process.stdin is not None
            print(seconds, file=process.stdin, flush=True)
        answers = [self._answer(process) for process in self.processes]
        self.row.rates.append(sum(answer["amount"] / answer["seconds"] for answer in answers))
        self.row.losses.append(statistics.fmean(answer["loss"] for answer in answers))
        self.row.compile_s = max(0.0, self.first_s - max(answer["seconds"] / answer["turns"] for answer in answers))

    def _answer(self, process: subprocess.Popen) -> dict[str, Any]:
        assert process.stdout is not None
        if line := process.stdout.readline():
            return json.loads(line)
        raise SystemExit(f"{self.row.name}: failed with exit code {process.wait()}; what it said is above")


def measure(
    workload: Workload, names: list[str], rounds: int, seconds: float, torch_python: str, gpu: bool = False
) -> list[Row]:
    """Every setting of the yardstick and of the contenders, one after another, `rounds` times; `gpu`: those of ON_GPU."""
    known, yardstick = (ON_GPU, YARDSTICK_GPU) if gpu else (CONTENDERS, YARDSTICK)
    fewer = dataclasses.replace(workload, num_seeds=max(1, workload.num_seeds // GPU_NETWORKS)) if gpu else workload
    with contextlib.ExitStack() as stack:
        teams = []
        for name, contender in {PEAK: yardstick, **{name: known[name] for name in names if name in known}}.items():
            python = torch_python if name.startswith("torch") else sys.executable
            for mode in contender.modes:
                for variant in contender.variants:
                    networks = workload if mode == GPU else fewer
                    team = Team(Row(name, mode, variant), contender.module, networks, python)
                    teams.append(stack.enter_context(team))
                    team.prepare()
        for number in range(rounds):
            print(f"{workload.name}: round {number + 1} of {rounds}", file=sys.stderr)
            for team in teams:
                if not team.row.missing:
                    team.round(seconds)
    return [team.row for team in teams]


def _environment(row: Row) -> dict[str, str]:
    """JAX on the CPU, for wspace with one device per core, one thread where the mode says so; or on the GPU.

    There it takes no more memory than it needs, and multiplies in float32 as the others do.
    """
    if row.mode == GPU:
        precision = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **precision}
    devices = tables.num_cores() if row.contender == "wspace" else 1
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    threads = () if row.mode == ALL else ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return variables | dict.fromkeys(threads, "1")
