"""Train a spec into a run folder: resume what is there, commit as it goes, report as it happens."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from wspace import data as datasets
from wspace import doctor, objective, store
from wspace import program as programs
from wspace import spec as specs
from wspace.data import Dataset
from wspace.errors import PlatformError, SpecError
from wspace.program import Arrays, Device, Plan, State
from wspace.provenance import new_provenance, new_session
from wspace.run import Run
from wspace.spec import Spec
from wspace.store import Store

SLICE_SECONDS = 0.5  # how often a long stretch between two checkpoints is looked at, and can be interrupted
COMMIT_CHECKPOINTS, COMMIT_BYTES, COMMIT_SECONDS = 8, 16 * 2**20, 2.0  # a commit is due at the first of these


@runtime_checkable
class Monitor(Protocol):
    """Hears what training does, from one thread at a time. Every method should return at once; none may change anything."""

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
        _Training(run_store, data, plan, devices, monitor).finish()
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


class _Training:
    """One session: a thread for each device takes block after block, until all are done or one of them fails."""

    def __init__(self, run_store: Store, data: Dataset, plan: Plan, devices: list[Device], monitor: Monitor):
        self.store, self.plan, self.devices, self.monitor = run_store, plan, devices, monitor
        self.spec = run_store.spec
        self.steps = specs.checkpoint_steps(self.spec)
        self.ids = list(specs.seed_ids(self.spec))
        self.program = programs.compile_program(plan.recipe)
        self.shared = (programs.root_key(self.spec), Arrays.of(data), plan.hypers)
        self.talk = threading.Lock()  # one thread at a time tells the monitor and writes to the store
        self.stop = threading.Event()

    def finish(self) -> None:
        """Train what is not done. A run that is complete is left as it is."""
        todo, already = self._look()
        self.monitor.begin(self.steps[-1] * len(self.ids), already)
        if not todo:
            return
        self.store.provenance["sessions"].append(new_session(self.devices))
        self.store.save_provenance()
        blocks: queue.SimpleQueue[tuple[int, int, list[np.ndarray] | None]] = queue.SimpleQueue()
        for item in sorted(todo, key=lambda item: (-item[0], item[1])):  # the furthest first
            blocks.put(item)
        with ThreadPoolExecutor(len(self.devices)) as pool:
            try:
                workers = [pool.submit(self._work, device, blocks) for device in self.devices[: len(todo)]]
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:  # also when the user interrupts
                self.stop.set()
        for worker in workers:
            worker.result()  # raises what it raised

    def _look(self) -> tuple[list[tuple[int, int, list[np.ndarray] | None]], int]:
        """([(last stored checkpoint or -1, block, its state)] of unfinished blocks, net-steps that are stored)."""
        todo, already = [], 0
        for block in range(self.store.num_blocks):
            rows = self.store.rows(block)
            if np.all(self.store.done[block]):
                self.store.discard_state(block)
                checkpoint = len(self.steps) - 1
            else:
                checkpoint, leaves = self.store.resume(block, self._state_like()) or (-1, None)
                todo.append((checkpoint, block, leaves))
            already += self.steps[max(checkpoint, 0)] * (rows.stop - rows.start)
        return todo, already

    def _state_like(self) -> list[jax.ShapeDtypeStruct]:
        root, _, hypers = self.shared
        seeds = np.zeros(self.store.width, np.uint32)
        return jax.tree.leaves(jax.eval_shape(self.program.init, root, seeds, hypers))

    def _work(self, device: Device, blocks: queue.SimpleQueue) -> None:
        """Train blocks on one device until none is left, or another device failed, or the user interrupts."""
        on_device = jax.device_put(self.shared, device)
        while not self.stop.is_set():
            try:
                checkpoint, block, leaves = blocks.get_nowait()
            except queue.Empty:
                return
            try:
                self._train(_Block(self, device, on_device, block, checkpoint, leaves))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                raise PlatformError(
                    f"a block of {self.store.width} seeds does not fit the memory of {device}: train into a new folder "
                    f"with a smaller engine.block_width, or smaller batches ({error})"
                ) from error

    def _train(self, block: "_Block") -> None:
        """From the block's last stored checkpoint (or its init) to the end."""
        since = time.monotonic()
        for index in range(block.first, len(self.steps)):
            step = self.steps[index]
            for lo, hi in block.slices(self.steps[index - 1] if index > 0 else 0, step):
                block.advance(lo, hi)
                if self.stop.is_set():
                    return
                with self.talk:
                    self.monitor.advance((hi - lo) * block.num_seeds)
                    self._tell(block.failures())
            block.measure(step)
            with self.talk:
                self._tell(block.failures())
                self.monitor.checkpoint(step, block.metrics[-1]["train_loss"])
                if (
                    index == len(self.steps) - 1
                    or len(block.theta) >= COMMIT_CHECKPOINTS
                    or sum(theta.nbytes for theta in block.theta) >= COMMIT_BYTES
                    or time.monotonic() - since >= COMMIT_SECONDS
                ):
                    block.commit()
                    since = time.monotonic()

    def _tell(self, failures: list[tuple[int, int]]) -> None:
        for seed, step in failures:
            self.monitor.diverged(seed, step)


class _Block:
    """One block in training on one device, with the checkpoints that are measured and not yet committed."""

    def __init__(
        self,
        training: _Training,
        device: Device,
        shared: tuple,
        block: int,
        checkpoint: int,
        leaves: list[np.ndarray] | None,
    ):
        self.store, self.program, self.spec, self.block = training.store, training.program, training.spec, block
        self.device, (self.root, self.arrays, self.hypers) = device, shared
        self.shared_order = training.plan.recipe.shared_order
        self.seeds = seeds = training.ids[self.store.rows(block)]
        self.num_seeds = len(seeds)
        # A short last block is filled up by repeating its first seed; what that gives is dropped.
        self.padded = [*seeds, *seeds[:1] * (self.store.width - len(seeds))]
        self.first = checkpoint + 1
        self.rate = 0.0  # steps a second
        self.theta: list[np.ndarray] = []
        self.metrics: list[dict[str, np.ndarray]] = []
        self.state = self._start(leaves)
        self.diverged_at = np.asarray(self.state.diverged_at)[: self.num_seeds]

    def slices(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a stretch of steps so that each part takes about SLICE_SECONDS. Where the cuts fall changes no number."""
        while start < stop:
            length = max(1, int(self.rate * SLICE_SECONDS)) if self.rate else min(64, stop - start)
            yield start, (start := min(stop, start + length))

    def advance(self, start: int, stop: int) -> None:
        """Take the steps start .. stop-1."""
        began = time.perf_counter()
        _, order = programs.stream_seeds(self.spec, self.padded, start)
        order = jax.device_put(order[0] if self.shared_order else order, self.device)
        bounds = (np.int32(start), np.int32(stop))
        self.state = self.program.advance(self.state, self.root, order, *bounds, self.arrays, self.hypers)
        jax.block_until_ready(self.state)
        self.rate = (stop - start) / max(time.perf_counter() - began, 1e-6)

    def measure(self, step: int) -> None:
        """Measure a checkpoint and keep it for the next commit."""
        theta, metrics, diverged = self.program.measure(self.state, np.int32(step), self.arrays, self.hypers)
        self.state = self.state._replace(diverged_at=diverged)
        self.theta.append(np.asarray(theta)[: self.num_seeds])
        self.metrics.append({name: np.asarray(values)[: self.num_seeds] for name, values in metrics.items()})

    def failures(self) -> list[tuple[int, int]]:
        """(seed, step) of the seeds that were found to have diverged since the last call."""
        known, self.diverged_at = self.diverged_at, np.asarray(self.state.diverged_at)[: self.num_seeds]
        return [(self.seeds[i], int(self.diverged_at[i])) for i in np.flatnonzero(known != self.diverged_at)]

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
        init, _ = programs.stream_seeds(self.spec, self.padded)
        init = jax.device_put(init, self.device)
        if leaves is None:
            return self.program.init(self.root, init, self.hypers)
        like = jax.eval_shape(self.program.init, self.root, init, self.hypers)
        return jax.device_put(jax.tree.unflatten(jax.tree.structure(like), leaves), self.device)
