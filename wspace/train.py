"""Train a spec into a run folder: resume what is there, commit as it goes, report as it happens."""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from wspace import data as datasets
from wspace import doctor, objective, store
from wspace import program as programs
from wspace import spec as specs
from wspace.data import Dataset
from wspace.errors import SpecError
from wspace.program import Arrays, Device, Plan, Program, State
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
            already += steps[-1] * (rows.stop - rows.start)
        else:
            checkpoint, leaves = run_store.resume(block) or (-1, None)
            already += steps[max(checkpoint, 0)] * (rows.stop - rows.start)
            todo.append((checkpoint, block, leaves))
    monitor.begin(steps[-1] * num_seeds, already)
    if not todo:
        return
    program = programs.compile_program(plan.recipe, tuple(devices))
    examples = (data.x_train, data.y_train, data.x_test, data.y_test)
    arrays = Arrays(*jax.device_put(examples, program.replicated))
    trainer = _Trainer(run_store, plan, program, arrays, monitor)
    todo.sort(key=lambda item: item[:2])
    for checkpoint, group in itertools.groupby(todo, key=lambda item: item[0]):
        for chosen in _batched(group, len(devices)):
            trainer.round([block for _, block, _ in chosen], checkpoint, [leaves for _, _, leaves in chosen])


class _Trainer:
    """What the rounds of one training session share."""

    def __init__(self, run_store: Store, plan: Plan, program: Program, arrays: Arrays, monitor: Monitor):
        self.store, self.plan, self.program, self.arrays, self.monitor = run_store, plan, program, arrays, monitor
        self.spec = run_store.spec
        self.steps = specs.checkpoint_steps(self.spec)
        self.ids = np.asarray(specs.seed_ids(self.spec))
        self.root = programs.root_key(self.spec)
        self.rate = 0.0  # steps a second, learnt as training goes

    def round(self, blocks: list[int], checkpoint: int, leaves: list[Any]) -> None:
        """Train one block per device from a stored checkpoint (-1: from the init) to the end."""
        slots = blocks + [blocks[-1]] * (self.program.sharding.mesh.size - len(blocks))  # idle devices repeat a block
        seeds = np.concatenate([self._padded_seeds(block) for block in slots])
        num_real = sum(self._num_seeds(block) for block in blocks)
        state = self._start(seeds, leaves + leaves[-1:] * (len(slots) - len(blocks)))
        pending = _Pending(self.store, blocks, checkpoint + 1)
        for index in range(checkpoint + 1, len(self.steps)):
            step = self.steps[index]
            start = self.steps[index - 1] if index > 0 else 0
            for lo, hi in self._slices(start, step):
                order = self._order(seeds, lo)
                began = time.perf_counter()
                state = jax.block_until_ready(
                    self.program.advance(
                        state, self.root, order, np.int32(lo), np.int32(hi), self.arrays, self.plan.hypers
                    )
                )
                self.rate = (hi - lo) / max(time.perf_counter() - began, 1e-6)
                self.monitor.advance((hi - lo) * num_real)
            theta, metrics, diverged = self.program.measure(state, np.int32(step), self.arrays, self.plan.hypers)
            state = state._replace(diverged_at=diverged)
            pending.add(np.asarray(theta), {k: np.asarray(v) for k, v in metrics.items()}, np.asarray(diverged))
            self._tell(blocks, step, pending)
            if index == len(self.steps) - 1 or pending.due():
                pending.commit(state)

    def _start(self, seeds: np.ndarray, leaves: list[Any]) -> State:
        """The init, or the stored states of the blocks side by side."""
        init, _ = programs.stream_seeds(self.spec, seeds.tolist())
        init = jax.device_put(init, self.program.sharding)
        if leaves[0] is None:
            return self.program.init(self.root, init, self.plan.hypers)
        like = jax.eval_shape(self.program.init, self.root, init, self.plan.hypers)
        stacked = [np.concatenate(parts) for parts in zip(*leaves, strict=True)]
        return jax.device_put(jax.tree.unflatten(jax.tree.structure(like), stacked), self.program.sharding)

    def _order(self, seeds: np.ndarray, step: int):
        """The order seeds that hold from `step` on, as the program takes them."""
        _, order = programs.stream_seeds(self.spec, seeds.tolist(), step)
        return order[0] if self.plan.recipe.shared_order else jax.device_put(order, self.program.sharding)

    def _slices(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a stretch of steps so that each part takes about SLICE_SECONDS. Where the cuts fall changes no number."""
        while start < stop:
            length = max(1, int(self.rate * SLICE_SECONDS)) if self.rate else min(64, stop - start)
            yield start, (start := min(stop, start + length))

    def _tell(self, blocks: list[int], step: int, pending: "_Pending") -> None:
        loss = []
        for slot, block in enumerate(blocks):
            rows = slice(slot * self.store.width, slot * self.store.width + self._num_seeds(block))
            loss.append(pending.metrics[-1]["train_loss"][rows])
            now, before = pending.diverged_at[rows], pending.known_diverged[rows]
            for seed, at in zip(self.ids[self.store.rows(block)][now != before], now[now != before], strict=True):
                self.monitor.diverged(int(seed), int(at))
        pending.known_diverged = pending.diverged_at
        self.monitor.checkpoint(step, np.concatenate(loss))

    def _padded_seeds(self, block: int) -> Int[np.ndarray, "width"]:
        """The block's seeds; a short last block is filled up by repeating its first seed, which is then dropped."""
        seeds = self.ids[self.store.rows(block)]
        return np.concatenate([seeds, np.full(self.store.width - len(seeds), seeds[0])])

    def _num_seeds(self, block: int) -> int:
        rows = self.store.rows(block)
        return rows.stop - rows.start


class _Pending:
    """Checkpoints of one round that are measured and not yet committed: a few, however many the run has."""

    def __init__(self, run_store: Store, blocks: list[int], first: int):
        self.store, self.blocks, self.first = run_store, blocks, first
        self.theta: list[np.ndarray] = []
        self.metrics: list[dict[str, np.ndarray]] = []
        self.diverged_at = self.known_diverged = np.array(-1)
        self.since = time.monotonic()

    def add(self, theta: np.ndarray, metrics: dict[str, np.ndarray], diverged_at: np.ndarray) -> None:
        if self.known_diverged.ndim == 0:
            self.known_diverged = np.full_like(diverged_at, -1)
        self.theta.append(theta)
        self.metrics.append(metrics)
        self.diverged_at = diverged_at

    def due(self) -> bool:
        return (
            len(self.theta) >= COMMIT_CHECKPOINTS
            or sum(theta.nbytes for theta in self.theta) >= COMMIT_BYTES
            or time.monotonic() - self.since >= COMMIT_SECONDS
        )

    def commit(self, state: State) -> None:
        """Hand everything pending to the store, block by block."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        checkpoints = slice(self.first, self.first + len(self.theta))
        for slot, block in enumerate(self.blocks):
            lanes = slice(slot * self.store.width, (slot + 1) * self.store.width)
            rows = self.store.rows(block)
            real = slice(lanes.start, lanes.start + rows.stop - rows.start)
            self.store.commit(
                block,
                checkpoints,
                np.stack([theta[real] for theta in self.theta], axis=1),
                {name: np.stack([m[name][real] for m in self.metrics], axis=1) for name in self.metrics[0]},
                self.diverged_at[real],
                [leaf[lanes] for leaf in leaves],
            )
        self.first, self.since = checkpoints.stop, time.monotonic()
        self.theta.clear()
        self.metrics.clear()


def _batched(items: Iterable, size: int) -> Iterator[tuple]:
    """Tuples of `size` items, the last one shorter (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part
