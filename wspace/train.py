"""Train a spec into a run folder: resume what is there, commit as it goes, report as it happens."""

import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from wspace import data as datasets
from wspace import doctor, objective, store
from wspace import program as programs
from wspace import spec as specs
from wspace.data import Dataset
from wspace.errors import SpecError
from wspace.program import Arrays, Device, Plan, State
from wspace.provenance import new_provenance, new_session
from wspace.run import Run
from wspace.spec import Spec
from wspace.store import Store

SLICE_SECONDS = 0.5  # how often the monitor hears from a long stretch between two checkpoints
COMMIT_CHECKPOINTS, COMMIT_BYTES, COMMIT_SECONDS = 8, 16 * 2**20, 2.0  # a commit is due at the first of these


@runtime_checkable
class Monitor(Protocol):
    """Hears what training does. Every method may return at once; none may change anything."""

    def begin(self, total: int, already: int) -> None:
        """Training starts: steps x seeds in all, and how many of them an earlier session has stored."""

    def advance(self, net_steps: int) -> None:
        """So many more steps x seeds have been taken."""

    def checkpoint(self, step: int, train_loss: Float[np.ndarray, "seed"]) -> None:
        """Some seeds were measured at a step."""

    def diverged(self, seed: int, step: int) -> None:
        """A seed's numbers stopped being finite; the others go on."""


class Silent:
    """The monitor that does nothing."""

    def begin(self, total: int, already: int) -> None: ...
    def advance(self, net_steps: int) -> None: ...
    def checkpoint(self, step: int, train_loss: Float[np.ndarray, "seed"]) -> None: ...
    def diverged(self, seed: int, step: int) -> None: ...


def train(spec: Spec, out: str | Path, *, num_devices: int | None = None, monitor: Monitor | None = None) -> Run:
    """Train all seeds of a spec into a run folder, or go on where an earlier call stopped.

    Args:
        spec: one experiment, without a sweep (`wspace.sweep.run_sweep` takes those).
        out: the run folder; made if it is not there.
        num_devices: devices to use, default all that JAX sees; does not change the numbers.
        monitor: hears of progress and failures.

    Returns:
        The complete run. Seeds that diverged are marked in it; see `Run.converged`.

    Raises:
        SpecError, DataError, StoreError, PlatformError: before any training; StoreError also when the disk fills up.
    """
    out, monitor = Path(out), monitor or Silent()
    spec = specs.normalise(spec)
    if spec.sweep:
        raise SpecError(
            f"the spec {spec.name!r} sweeps {list(spec.sweep)}: train() takes one run, run_sweep() takes a sweep"
        )
    doctor.refuse_wrong_numbers()
    devices = programs.choose_devices(num_devices)
    run_store, data, plan = prepare(spec, out, devices)
    if run_store is None:
        run_store = store.create(out, spec, new_provenance(data, plan), plan.layout, objective.METRICS[data.task])
    with run_store.lock():
        run_store.provenance["sessions"].append(new_session(devices))
        run_store.save_provenance()
        _train_blocks(run_store, data, plan, devices, monitor)
    return Run(Store(out))


def prepare(spec: Spec, out: Path, devices: list[Device]) -> tuple[Store | None, Dataset, Plan]:
    """Everything that can fail before training, without writing: read the data, make the plan, look at the folder.

    Returns:
        (the run to resume, or None where a new one can be made; the data; the plan)
    """
    data = datasets.load(spec.data)
    existing = Store(out, "r+") if store.is_run(out) else None
    plan = programs.plan(spec, data, devices[0].platform, existing.width if existing else 0)
    if existing is not None:
        store.check_unchanged(existing, spec, data.hash)
    else:
        store.check_new(out, store.num_bytes(spec, plan.layout))
    return existing, data, plan


def _train_blocks(run_store: Store, data: Dataset, plan: Plan, devices: list[Device], monitor: Monitor) -> None:
    """Train what is not done, `len(devices)` blocks at a time."""
    spec, steps = run_store.spec, specs.checkpoint_steps(run_store.spec)
    num_seeds = len(specs.seed_ids(spec))
    todo: list[tuple[int, int, list[np.ndarray] | None]] = []
    already = 0
    for block in range(run_store.num_blocks):
        rows = run_store.rows(block)
        if np.all(run_store.done[block]):
            run_store.discard_state(block)
            already += steps[-1] * (rows.stop - rows.start)
        else:
            checkpoint, leaves = run_store.resume(block) or (-1, None)
            already += steps[max(checkpoint, 0)] * (rows.stop - rows.start)
            todo.append((checkpoint, block, leaves))
    monitor.begin(steps[-1] * num_seeds, already)
    if not todo:
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        trainer = _Trainer(run_store, data, plan, devices, pool, monitor)
        todo.sort(key=lambda item: item[:2])
        for checkpoint, group in itertools.groupby(todo, key=lambda item: item[0]):
            for chosen in _batched(group, len(devices)):
                trainer.round([block for _, block, _ in chosen], checkpoint, [leaves for _, _, leaves in chosen])


class _Trainer:
    """What the rounds of one training session share."""

    def __init__(
        self, run_store: Store, data: Dataset, plan: Plan, devices: list[Device], pool: Executor, monitor: Monitor
    ):
        self.store, self.plan, self.pool, self.monitor = run_store, plan, pool, monitor
        self.spec = run_store.spec
        self.steps = specs.checkpoint_steps(self.spec)
        self.ids = np.asarray(specs.seed_ids(self.spec))
        self.program = programs.compile_program(plan.recipe)
        shared = (programs.root_key(self.spec), Arrays.of(data), plan.hypers)
        self.shared = [(device, *jax.device_put(shared, device)) for device in devices]
        self.rate = 0.0  # steps a second, learnt as training goes

    def round(self, blocks: list[int], checkpoint: int, leaves: list[Any]) -> None:
        """Train one block per device, side by side, from a stored checkpoint (-1: from the init) to the end."""
        parts = [
            _Part(self, block, shared, checkpoint, stored)
            for block, shared, stored in zip(blocks, self.shared, leaves, strict=False)
        ]
        since, pending = time.monotonic(), 0
        for index in range(checkpoint + 1, len(self.steps)):
            step = self.steps[index]
            for lo, hi in self._slices(self.steps[index - 1] if index > 0 else 0, step):
                began = time.perf_counter()
                # Threads, because compiling for each device and waiting for it let go of Python's lock.
                list(self.pool.map(lambda part, lo=lo, hi=hi: part.advance(lo, hi), parts))
                self.rate = (hi - lo) / max(time.perf_counter() - began, 1e-6)
                self.monitor.advance((hi - lo) * sum(part.num_seeds for part in parts))
            failures = [part.measure(step) for part in parts]
            for seed, at in itertools.chain(*failures):
                self.monitor.diverged(seed, at)
            self.monitor.checkpoint(step, np.concatenate([part.metrics[-1]["train_loss"] for part in parts]))
            pending += 1
            held = sum(theta.nbytes for part in parts for theta in part.theta)
            if (
                index == len(self.steps) - 1
                or pending >= COMMIT_CHECKPOINTS
                or held >= COMMIT_BYTES
                or time.monotonic() - since >= COMMIT_SECONDS
            ):
                for part in parts:
                    part.commit()
                since, pending = time.monotonic(), 0

    def _slices(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a stretch of steps so that each part takes about SLICE_SECONDS. Where the cuts fall changes no number."""
        while start < stop:
            length = max(1, int(self.rate * SLICE_SECONDS)) if self.rate else min(64, stop - start)
            yield start, (start := min(stop, start + length))


class _Part:
    """One block in training on one device, with the checkpoints that are measured and not yet committed."""

    def __init__(self, trainer: _Trainer, block: int, shared: tuple, checkpoint: int, leaves: list[np.ndarray] | None):
        self.store, self.program, self.spec, self.block = trainer.store, trainer.program, trainer.spec, block
        self.device, self.root, self.arrays, self.hypers = shared
        self.shared_order = trainer.plan.recipe.shared_order
        seeds = trainer.ids[self.store.rows(block)]
        self.num_seeds, self.real = len(seeds), seeds
        # A short last block is filled up by repeating its first seed; what that gives is dropped.
        self.seeds = np.concatenate([seeds, np.full(self.store.width - len(seeds), seeds[0])]).tolist()
        self.first = checkpoint + 1
        self.theta: list[np.ndarray] = []
        self.metrics: list[dict[str, np.ndarray]] = []
        self.state = self._start(leaves)
        self.diverged_at = np.asarray(self.state.diverged_at)[: self.num_seeds]

    def advance(self, start: int, stop: int) -> None:
        """Take the steps start .. stop-1."""
        _, order = programs.stream_seeds(self.spec, self.seeds, start)
        order = jax.device_put(order[0] if self.shared_order else order, self.device)
        bounds = (np.int32(start), np.int32(stop))
        self.state = self.program.advance(self.state, self.root, order, *bounds, self.arrays, self.hypers)
        jax.block_until_ready(self.state)

    def measure(self, step: int) -> list[tuple[int, int]]:
        """Measure a checkpoint; returns (seed, step) of the seeds that were found to have diverged."""
        theta, metrics, diverged = self.program.measure(self.state, np.int32(step), self.arrays, self.hypers)
        self.state = self.state._replace(diverged_at=diverged)
        self.theta.append(np.asarray(theta)[: self.num_seeds])
        self.metrics.append({name: np.asarray(values)[: self.num_seeds] for name, values in metrics.items()})
        known, self.diverged_at = self.diverged_at, np.asarray(diverged)[: self.num_seeds]
        return [(int(self.real[i]), int(self.diverged_at[i])) for i in np.flatnonzero(known != self.diverged_at)]

    def commit(self) -> None:
        """Hand everything pending to the store."""
        self.store.commit(
            self.block,
            slice(self.first, self.first + len(self.theta)),
            np.stack(self.theta, axis=1),
            {name: np.stack([m[name] for m in self.metrics], axis=1) for name in self.metrics[0]},
            self.diverged_at,
            [np.asarray(leaf) for leaf in jax.tree.leaves(self.state)],
        )
        self.first += len(self.theta)
        self.theta.clear()
        self.metrics.clear()

    def _start(self, leaves: list[np.ndarray] | None) -> State:
        """The init, or the stored state."""
        init, _ = programs.stream_seeds(self.spec, self.seeds)
        init = jax.device_put(init, self.device)
        if leaves is None:
            return self.program.init(self.root, init, self.hypers)
        like = jax.eval_shape(self.program.init, self.root, init, self.hypers)
        return jax.device_put(jax.tree.unflatten(jax.tree.structure(like), leaves), self.device)


def _batched(items: Iterable, size: int) -> Iterator[tuple]:
    """Tuples of `size` items, the last one shorter (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part
