"""The run on disk: zarr arrays, provenance, and commits that survive being killed at any moment.

    <run>/spec.toml          what was asked, complete and normalised
    <run>/provenance.json    when, where and with what it was trained
    <run>/run.zarr/          theta, metrics, done: see `create`
    <run>/state/             optimizer state of unfinished blocks, and the writer's lock

A folder appears whole or not at all (built beside, then renamed). A commit writes, in this order, theta, metrics and
diverged_at; the resume state (temporary file, then `os.replace`); done. Each zarr chunk is replaced atomically, so what
`done` marks is always complete, and progress is read from `done`, never from a shape.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import zarr
from jaxtyping import Float, Int
from zarr.core.group import Group

from wspace import objective
from wspace import spec as specs
from wspace.errors import SpecError, StoreError
from wspace.spec import Spec
from wspace.tree import Layout

SCHEMA = 1
CHECKPOINTS_PER_CHUNK = 256
_PROVENANCE = {"block_width", "data", "data_hash", "loss", "num_params", "sessions", "task"}  # what reading needs
_MEND = "restore the folder from a copy, or remove it and train again"
_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


class Store:
    """An open run folder. Reading is lazy; writing goes through `commit`.

    Attributes:
        path: the run folder.
        spec: what was asked.
        provenance: contents of provenance.json.
        group: the zarr group.
    """

    def __init__(self, path: str | Path, mode: str = "r"):
        """Open an existing run folder; mode r reads, r+ writes too.

        Raises:
            StoreError: the folder does not exist, is not a run, is damaged, or is of another schema version.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise StoreError(f"there is no run folder {str(path)!r}")
        if not is_run(self.path):
            raise StoreError(f"{path} is not a run folder: spec.toml, provenance.json and run.zarr are expected in it")
        try:
            self.provenance: dict[str, Any] = json.loads((self.path / "provenance.json").read_text(encoding="utf-8"))
            if (schema := self.provenance["schema"]) != SCHEMA:
                raise StoreError(f"{path} has run format {schema}, this version of wspace reads format {SCHEMA}")
            if missing := sorted(_PROVENANCE - set(self.provenance)):
                raise ValueError(f"provenance.json lacks {missing}")
            self.spec = specs.parse(tomllib.loads((self.path / "spec.toml").read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, UnicodeDecodeError, ValueError) as error:
            raise StoreError(f"{path} is damaged: {type(error).__name__}: {error}; {_MEND}") from error
        with self._reading():
            self.group: Group = zarr.open_group(self.path / "run.zarr", mode="r+" if mode == "r+" else "r")
            self.theta, self.done = self.array("theta"), self.array("done")
            self._check_spec()
            self._check_shapes()

    def array(self, name: str) -> zarr.Array:
        """The zarr array `name`, e.g. theta or metrics/train_loss."""
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array

    def read(self, name: str) -> np.ndarray:
        """All values of the zarr array `name`; not meant for theta.

        Raises:
            StoreError: it is damaged.
        """
        with self._reading():
            return np.asarray(self.array(name)[:])

    def check(self) -> None:
        """Look at the size of every chunk, without reading any of theta.

        Raises:
            StoreError: a chunk is missing or has another size than it was written with.
        """
        root, done, finite = self.path / "run.zarr", self.read("done"), self.read("diverged_at") < 0
        for name in self._names():
            array = self.array(name)
            expected = math.prod(array.chunks) * array.dtype.itemsize
            for file in (root / name / "c").rglob("*"):
                if file.name.isdigit() and file.is_file() and (size := file.stat().st_size) != expected:
                    raise StoreError(
                        f"{self.path} is damaged: {file.relative_to(self.path)} has {size} bytes, {expected} are "
                        f"expected; {_MEND}"
                    )
            if name != "theta" and not name.startswith("metrics/"):
                continue
            for block in range(self.num_blocks):
                if not finite[self.rows(block)].any():
                    continue  # a chunk of nothing but NaN is not written
                for column in np.unique(np.flatnonzero(done[block]) // array.chunks[1]):
                    chunk = root / name / "c" / str(block) / str(column) / ("0" if name == "theta" else "")
                    if not chunk.exists():
                        raise StoreError(
                            f"{self.path} is damaged: {chunk.relative_to(self.path)} is missing, though `done` marks "
                            f"it; {_MEND}"
                        )

    @property
    def width(self) -> int:
        """Seeds in a block."""
        return int(self.provenance["block_width"])

    @property
    def num_blocks(self) -> int:
        """Blocks of the run; the last may hold fewer seeds than `width`."""
        return self.done.shape[0]

    def rows(self, block: int) -> slice:
        """Positions of a block's seeds along the seed dimension."""
        return slice(block * self.width, min((block + 1) * self.width, self.theta.shape[0]))

    def commit(
        self,
        block: int,
        checkpoints: slice,
        theta: Float[np.ndarray, "seed checkpoint param"],
        metrics: dict[str, Float[np.ndarray, "seed checkpoint"]],
        diverged_at: Int[np.ndarray, "seed"],
        state: Sequence[np.ndarray],
    ) -> None:
        """Store consecutive checkpoints of a block, and the state from which training goes on after the last of them.

        Args:
            block: which block.
            checkpoints: which checkpoints, as a slice with start and stop.
            theta, metrics, diverged_at: of the block's seeds, padding removed.
            state: leaves of the padded block's training state at the last of the checkpoints.

        Raises:
            StoreError: the disk is full or the folder is not writable; what was committed before stays.
        """
        rows = self.rows(block)
        with writing(self.path):
            self.theta[rows, checkpoints] = theta
            for name, values in metrics.items():
                self.array(f"metrics/{name}")[rows, checkpoints] = values
            self.array("diverged_at")[rows] = diverged_at
            last = checkpoints.stop - 1
            finished = last == self.done.shape[1] - 1
            if not finished:
                self._save_state(block, last, state)
            self.done[block, checkpoints] = True
        if finished:
            self.discard_state(block)

    def resume(self, block: int, like: Sequence[jax.ShapeDtypeStruct]) -> tuple[int, list[np.ndarray]] | None:
        """(last stored checkpoint, state leaves) of a block that was interrupted; None when it has to start afresh.

        A state that is newer than `done` (killed between the two writes) completes `done`: its theta and metrics were
        written before it. A state that is missing, unreadable or not of the shapes and dtypes of `like` (another
        version's) clears the block: starting afresh gives the same numbers.
        """
        done = np.asarray(self.done[block])
        loaded = self._load_state(block)
        if loaded is not None and [(a.shape, a.dtype) for a in loaded[1]] != [(a.shape, a.dtype) for a in like]:
            loaded = None
        with writing(self.path):
            if loaded is None or loaded[0] + 1 < done.sum():
                if done.any():
                    self.done[block, :] = False
                return None
            self.done[block, : loaded[0] + 1] = True
        return loaded

    def discard_state(self, block: int) -> None:
        """Remove the state of a finished block; a kill just before this leaves it to the next session."""
        with writing(self.path):
            self._state_path(block).unlink(missing_ok=True)

    def save_provenance(self) -> None:
        """Replace provenance.json by `provenance`."""
        with writing(self.path):
            replace_file(self.path / "provenance.json", json.dumps(self.provenance, indent=2).encode())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; the operating system lets go of it when the process ends, however it ends.

        What others wrote into the provenance until now is read again.

        Raises:
            StoreError: another process is training this run.
        """
        with writing(self.path):
            (self.path / "state").mkdir(exist_ok=True)
            file = open(self.path / "state" / "lock", "w")  # noqa: SIM115  (closed below, after the yield)
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{self.path} is being trained by another process; wait for it or stop it") from None
            for partial in (self.path / "state").glob(".*.partial"):  # of a writer that was killed
                partial.unlink()
            self.provenance = json.loads((self.path / "provenance.json").read_text(encoding="utf-8"))
            yield

    def _names(self) -> list[str]:
        metrics = objective.METRICS[self.provenance["task"]]
        return ["theta", "done", "seed", "checkpoint_step", "diverged_at", *(f"metrics/{name}" for name in metrics)]

    def _check_spec(self) -> None:
        created = self.group.attrs.get("spec")
        if created is not None and (changes := specs.difference(specs.parse(tomllib.loads(str(created))), self.spec)):
            lines = "\n  ".join(changes)
            raise StoreError(f"{self.path / 'spec.toml'} was edited after the run was made; undo it:\n  {lines}")

    def _check_shapes(self) -> None:
        num, steps = len(specs.seed_ids(self.spec)), len(specs.checkpoint_steps(self.spec))
        shapes = {
            "theta": (num, steps, self.provenance["num_params"]),
            "done": (-(-num // self.width), steps),
            "seed": (num,),
            "checkpoint_step": (steps,),
            "diverged_at": (num,),
        }
        for name in self._names():
            if (shape := self.array(name).shape) != (expected := shapes.get(name, (num, steps))):
                raise ValueError(f"{name} has shape {shape}, spec.toml and provenance.json say {expected}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what zarr raises about damaged files into one error."""
        try:
            yield
        except StoreError:
            raise
        except (OSError, LookupError, ValueError, TypeError, AssertionError, ArithmeticError) as error:
            raise StoreError(f"{self.path}/run.zarr is damaged: {type(error).__name__}: {error}; {_MEND}") from error

    def _state_path(self, block: int) -> Path:
        return self.path / "state" / f"block-{block}.npz"

    def _save_state(self, block: int, checkpoint: int, leaves: Sequence[np.ndarray]) -> None:
        named = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
        with _replacing(self._state_path(block)) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, checkpoint=checkpoint, **named)
            file.flush()
            os.fsync(file.fileno())

    def _load_state(self, block: int) -> tuple[int, list[np.ndarray]] | None:
        try:
            with self._state_path(block).open("rb") as file, np.load(file, allow_pickle=False) as state:
                return int(state["checkpoint"]), [state[f"leaf{i}"] for i in range(len(state.files) - 1)]
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def is_run(path: Path) -> bool:
    """Whether a folder has the parts of a run."""
    return all(os.path.exists(path / part) for part in ("spec.toml", "provenance.json", "run.zarr"))


def create(path: Path, spec: Spec, provenance: dict[str, Any], layout: Layout, metrics: Sequence[str]) -> Store:
    """Make a new run folder, whole or not at all.

    The arrays (a chunk of theta is one checkpoint of one block; nothing is compressed, as trained weights hardly are):

        theta[seed, checkpoint, param] float32; attrs: leaf names, shapes, offsets
        attrs: schema; spec: spec.toml as it was created, so that an edit of the file is noticed
        seed[seed] int64; checkpoint_step[checkpoint] int64
        metrics/<name>[seed, checkpoint] float32, NaN where not done; diverged_at[seed] int64, -1: did not diverge
        done[block, checkpoint] bool

    Raises:
        StoreError: the folder exists and is not empty, or cannot be written, or the disk has no room.
    """
    seeds, steps = specs.seed_ids(spec), specs.checkpoint_steps(spec)
    num, width = len(seeds), provenance["block_width"]
    check_new(path, num_bytes(spec, layout))
    with writing(path), new_folder(path) as building:
        (building / "spec.toml").write_text(specs.to_toml(spec), encoding="utf-8")
        (building / "provenance.json").write_text(json.dumps(provenance, indent=2), encoding="utf-8")
        (building / "state").mkdir()
        group = zarr.create_group(
            building / "run.zarr", zarr_format=3, attributes={"schema": SCHEMA, "spec": specs.to_toml(spec)}
        )
        rows = min(width, num)
        leaves = {
            "leaf_names": list(layout.names),
            "leaf_shapes": [list(shape) for shape in layout.shapes],
            "leaf_offsets": list(layout.offsets),
        }

        def add(name: str, dims: tuple[str, ...], shape, chunks, dtype: str, fill, attributes=None):
            return group.create_array(
                name,
                shape=shape,
                chunks=chunks,
                dtype=dtype,
                fill_value=fill,
                compressors=None,
                dimension_names=dims,
                attributes=attributes,
            )

        table = (num, len(steps)), (rows, min(len(steps), CHECKPOINTS_PER_CHUNK))
        theta = (num, len(steps), layout.size), (rows, 1, layout.size)
        add("theta", ("seed", "checkpoint", "param"), *theta, "float32", np.nan, leaves)
        add("seed", ("seed",), (num,), (num,), "int64", 0)[:] = np.asarray(seeds, np.int64)
        add("checkpoint_step", ("checkpoint",), (len(steps),), (len(steps),), "int64", 0)[:] = np.asarray(steps)
        add("diverged_at", ("seed",), (num,), (rows,), "int64", -1)
        for name in metrics:
            add(f"metrics/{name}", ("seed", "checkpoint"), *table, "float32", np.nan)
        add("done", ("block", "checkpoint"), (-(-num // width), len(steps)), (1, len(steps)), "bool", False)
    return Store(path, "r+")


def num_bytes(spec: Spec, layout: Layout) -> int:
    """Disk space of a run: theta at every checkpoint, and at most three more vectors a seed while it trains."""
    return 4 * layout.size * len(specs.seed_ids(spec)) * (len(specs.checkpoint_steps(spec)) + 3)


def check_new(path: Path, needed: int) -> None:
    """Refuse a folder where no run of `needed` bytes can be made.

    Raises:
        StoreError: it exists and is not empty or is a mount point, its parent cannot be written, or the disk has no room.
    """
    with writing(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is not a run: choose another --out, or remove it")
        if path.is_mount():
            raise StoreError(f"{path} is a mount point, which cannot be replaced: choose a folder in it as --out")
        parent = next(parent for parent in path.absolute().parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise StoreError(f"{path} cannot be made: {parent} is not a writable folder; choose another --out")
        check_room(path, needed)


def check_room(path: Path, needed: int) -> None:
    """Refuse what the disk below `path`, which need not exist, has no room for.

    Raises:
        StoreError: it says how much is needed and how much is free.
    """
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(parent).free) < needed:
        raise StoreError(
            f"{path} needs about {size_text(needed)}, the disk has {size_text(free)} free: "
            "store fewer checkpoints or seeds, or choose another --out"
        )


def check_unchanged(store: Store, spec: Spec, data_hash: str) -> None:
    """Refuse to resume a run with another spec or other data.

    Raises:
        SpecError: shows every field that differs, old -> new.
        StoreError: the data's hash differs, or the run is damaged.
    """
    if changes := specs.difference(store.spec, spec):
        lines = "\n  ".join(changes)
        raise SpecError(
            f"{store.path} holds a run of another spec; choose another --out, or undo the change:\n  {lines}"
        )
    if data_hash != store.provenance["data_hash"]:
        raise StoreError(
            f"{store.path} was trained on data of hash {store.provenance['data_hash'][:12]}, the data now has "
            f"{data_hash[:12]}: the file behind data.path, or a library that makes the data, has changed"
        )
    store.check()


def size_text(num_bytes: float) -> str:
    """A size for people, e.g. 3.1 MB."""
    unit = next(unit for unit in ("GB", "MB", "kB") if num_bytes >= _UNITS[unit] or unit == "kB")
    return f"{num_bytes / _UNITS[unit]:.1f} {unit}"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    with _replacing(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: filled beside `path`, then renamed to it, or over an empty one.

    What a killed process left half made is removed first.

    Raises:
        StoreError: another process makes, or has just made, the same folder.
    """
    path = path.resolve()  # a link to an empty folder is filled, not replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.partial")
    taken = StoreError(f"{path} is made by another process at the same time; give the same command again")
    building.mkdir(exist_ok=True)
    handle = os.open(building, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process ends, however it ends
        except BlockingIOError:
            raise taken from None
        if not building.exists() or not os.path.samestat(os.fstat(handle), building.stat()):
            raise taken  # renamed between our mkdir and our lock
        for left in building.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield building
            os.rename(building, path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise taken from error
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}; what was committed is kept: free space or rights, "
            "then give the same command again to resume"
        ) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place once it is written, and is removed when that fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
