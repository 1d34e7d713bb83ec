"""A sweep: the grid of a spec as one run folder per point, with a list of them.

    <out>/spec.toml      what was asked, with its sweep
    <out>/sweep.json     {"name", "fields", "points": [{"folder", "values", "status", "error"}]}
    <out>/<point>/       an ordinary run folder, named by its swept values

Values that do not change shapes (`program.Hypers`) do not recompile: all points of a sweep over the learning rate run
in one compiled program.
"""

import functools
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wspace import program, store
from wspace import spec as specs
from wspace.data import Dataset
from wspace.errors import PlatformError, SpecError, StoreError, WspaceError
from wspace.program import Device, Plan
from wspace.run import Run, open_run
from wspace.spec import Point, Spec
from wspace.store import Store
from wspace.train import Monitor, prepare, train


class Outcome(NamedTuple):
    """What became of one point of a sweep.

    Attributes:
        point: its values and spec.
        error: None when the run is complete, else why it is not.
        num_diverged: seeds that diverged.
    """

    point: Point
    error: str | None
    num_diverged: int


DASK_SECONDS = 10  # to wait for a scheduler

Executor = Callable[[Callable[[Point], Outcome], Iterable[Point]], Iterator[Outcome]]


def in_process(work: Callable[[Point], Outcome], points: Iterable[Point]) -> Iterator[Outcome]:
    """One point after another in this process, on all its devices: they share compiled programs."""
    yield from map(work, points)


def on_dask(address: str) -> Executor:
    """Points on the workers of a Dask scheduler (needs the `distributed` extra), in the order in which they finish.

    The workers need this package and see the sweep's folder under the same path.

    A relative data.path is looked up in each worker's own folder: give an absolute one.

    Args:
        address: of the scheduler, e.g. tcp://127.0.0.1:8786.

    Raises:
        ImportError: distributed is not installed; the message says what to install.
        PlatformError: no scheduler answers there.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError("a Dask sweep needs distributed: pip install 'wspace[distributed]'") from error

    try:
        client = Client(address, timeout=DASK_SECONDS)
    except (OSError, ValueError) as error:
        raise PlatformError(
            f"no Dask scheduler answers at {address!r} within {DASK_SECONDS} s ({error}): an address like "
            "tcp://127.0.0.1:8786 is expected, as `dask scheduler` prints it"
        ) from error

    def execute(work: Callable[[Point], Outcome], points: Iterable[Point]) -> Iterator[Outcome]:
        with client:
            futures = {client.submit(work, point, pure=False): point for point in points}
            for future in as_completed(futures):
                error = future.exception()  # a worker died: the others go on
                yield future.result() if error is None else Outcome(futures[future], f"the worker failed: {error!r}", 0)

    return execute


def run_sweep(
    spec: Spec,
    out: str | Path,
    *,
    num_devices: int | None = None,
    monitor: Callable[[Point], Monitor] | None = None,
    executor: Executor = in_process,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Train every point of a sweep; points that are done are left alone, interrupted ones resumed, failures recorded.

    Args:
        spec: with a sweep.
        out: the sweep's folder.
        num_devices: devices for each point.
        monitor: makes the monitor of a point (in-process only: it does not travel to other machines).
        executor: where the points are trained: `in_process`, or `on_dask(address)`.
        tell: called with each outcome as it is known.

    Returns:
        Outcomes in grid order.

    Raises:
        SpecError, DataError, StoreError: before any training, if any point cannot be trained.
    """
    out, spec = Path(out).absolute(), specs.normalise(spec)  # workers have current folders of their own
    points = specs.grid(spec)
    known = {point.folder: _PENDING for point in points}
    for prepared in check(spec, out, program.choose_devices(num_devices)):
        if prepared.existing is not None and np.all(prepared.existing.done[:]):
            known[prepared.point.folder] = _COMPLETE
    if not is_sweep(out):
        with store.writing(out), store.new_folder(out) as building:
            (building / "spec.toml").write_text(specs.to_toml(spec), encoding="utf-8")
            _write_list(building, spec, points, known)
    outcomes: dict[str, Outcome] = {}

    # Of module-level functions and plain values only, so that it travels to other machines.
    work = functools.partial(train_point, out=out, num_devices=num_devices, monitor=monitor)
    for outcome in executor(work, points):
        folder = outcome.point.folder
        if outcome.error is None and not store.is_run(out / folder):
            outcome = outcome._replace(error=f"the worker does not write to {out}: it must see the same folder there")
        outcomes[folder] = outcome
        known[folder] = {"status": "failed", "error": outcome.error} if outcome.error else _COMPLETE
        _write_list(out, spec, points, known)
        tell(outcome)
    return [outcomes[point.folder] for point in points]


def train_point(
    point: Point, out: Path, num_devices: int | None, monitor: Callable[[Point], Monitor] | None
) -> Outcome:
    """Train one point; what goes wrong is its outcome, so that the others go on."""
    try:
        told = monitor(point) if monitor else None
        run = train(point.spec, out / point.folder, num_devices=num_devices, monitor=told)
    except WspaceError as error:
        return Outcome(point, str(error), 0)
    except Exception as error:  # a defect in one point must not lose the others; nothing of it is hidden
        return Outcome(point, "".join(traceback.format_exception(error)), 0)
    return Outcome(point, None, int(np.sum(run.diverged_at >= 0)))


class Prepared(NamedTuple):
    """A point that can be trained.

    Attributes:
        point: its values and spec.
        folder: of its run.
        existing: the run to resume; None where a new one can be made.
        data: its dataset.
        plan: what to compile.
    """

    point: Point
    folder: Path
    existing: Store | None
    data: Dataset
    plan: Plan


def check(spec: Spec, out: Path, devices: list[Device]) -> Iterator[Prepared]:
    """Everything that can fail before training, without writing, point by point, and room for all that is new.

    A spec without a sweep has one point, whose folder is `out` itself.

    Raises:
        SpecError, DataError, StoreError: what cannot be trained, and why.
    """
    if spec.sweep:
        check_folder(out, spec)
    needed = 0
    for point in specs.grid(spec):
        folder = out / point.folder if spec.sweep else out
        prepared = Prepared(point, folder, *prepare(point.spec, folder, devices))
        if prepared.existing is None:
            needed += store.num_bytes(point.spec, prepared.plan.layout)
        yield prepared
    store.check_room(out, needed)


def check_folder(out: Path, spec: Spec) -> None:
    """Refuse a folder that holds something else than this sweep.

    Raises:
        SpecError: it holds another sweep; every field that differs is shown.
        StoreError: it holds a run, or anything else.
    """
    if not out.exists():
        return
    if not is_sweep(out):
        if not out.is_dir() or any(out.iterdir()):
            what = "holds a run" if store.is_run(out) else "exists and is not a sweep"
            raise StoreError(f"{out} {what}: choose another --out, or remove it")
        return
    if changes := specs.difference(specs.load(out / "spec.toml"), spec):
        lines = "\n  ".join(changes)
        raise SpecError(f"{out} holds another sweep; choose another --out, or undo the change:\n  {lines}")


def is_sweep(path: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (path / "sweep.json").is_file() and (path / "spec.toml").is_file()


def open_sweep(path: str | Path) -> list[tuple[dict[str, Any], Run | None]]:
    """(swept values, run) of every point of a sweep, in grid order; None for points not begun.

    Raises:
        StoreError: there is no sweep there, or a run is damaged.
    """
    path = Path(path)
    if not is_sweep(path):
        raise StoreError(f"{path} is not the folder of a sweep: sweep.json and spec.toml are expected in it")
    try:
        points = json.loads((path / "sweep.json").read_text(encoding="utf-8"))["points"]
        folders = [(point["values"], path / point["folder"]) for point in points]
        if not points or any(folder.parent != path or folder.name == ".." for _, folder in folders):
            raise ValueError("folders of points inside the sweep's are expected")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path / 'sweep.json'} is damaged: {error}; give the training command again") from error
    return [(values, open_run(folder) if store.is_run(folder) else None) for values, folder in folders]


_PENDING, _COMPLETE = ({"status": status, "error": None} for status in ("pending", "complete"))


def _write_list(out: Path, spec: Spec, points: list[Point], known: dict[str, dict[str, Any]]) -> None:
    listed = [{"folder": point.folder, "values": point.values, **known[point.folder]} for point in points]
    content = {"name": spec.name, "fields": list(spec.sweep), "points": listed}
    with store.writing(out):
        store.replace_file(out / "sweep.json", json.dumps(content, indent=2).encode())
