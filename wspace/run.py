"""Run: one spec x all its seeds, opened lazily. Opening reads a few kilobytes, whatever the run's size."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import zarr
from jaxtyping import Bool, Float, Int

from wspace import data as datasets
from wspace import program
from wspace.data import Dataset
from wspace.errors import StoreError
from wspace.models import MLP, ConvNet, from_spec
from wspace.spec import Spec
from wspace.store import Store
from wspace.tree import Layout, Params

if TYPE_CHECKING:
    import xarray


def open_run(path: str | Path) -> "Run":
    """Open a run folder for reading, complete or not.

    Raises:
        StoreError: there is no run there, it is damaged, or it has another format.
    """
    return Run(Store(path))


class Metrics(Mapping[str, Float[np.ndarray, "seed checkpoint"]]):
    """name -> (seed, checkpoint) float32, read from disk when asked; NaN where not done or diverged."""

    def __init__(self, store: Store):
        self._store = store

    def __getitem__(self, name: str) -> Float[np.ndarray, "seed checkpoint"]:
        if name not in self._names:
            raise KeyError(f"there is no metric {name!r}; this run has {sorted(self._names)}")
        return self._store.read(f"metrics/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def _names(self) -> set[str]:
        group = self._store.group["metrics"]
        assert isinstance(group, zarr.Group)
        return set(group.array_keys())


class Run:
    """One spec x all its seeds.

    Positions along `seed` follow `seeds`; a diverged or unfinished seed keeps its place and is masked by `converged`.
    """

    def __init__(self, store: Store):
        self._store = store

    def __repr__(self) -> str:
        num, checkpoints, params = self.theta.shape
        return f"Run({str(self.path)!r}, seeds={num}, checkpoints={checkpoints}, params={params})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._store.path

    @property
    def spec(self) -> Spec:
        """What was asked, complete and normalised."""
        return self._store.spec

    @property
    def provenance(self) -> dict[str, Any]:
        """When, where and with what the run was trained; one entry of `sessions` per time training was started."""
        return self._store.provenance

    @property
    def theta(self) -> zarr.Array:
        """(seed, checkpoint, param) float32, on disk: `run.theta[:, -1]` reads one checkpoint of all seeds."""
        return self._store.theta

    @property
    def metrics(self) -> Metrics:
        """name -> (seed, checkpoint) float32; the names and units are those of `wspace.objective.measure`."""
        return Metrics(self._store)

    @cached_property
    def seeds(self) -> Int[np.ndarray, "seed"]:
        """The seeds' ids."""
        return self._store.read("seed")

    @cached_property
    def checkpoint_steps(self) -> Int[np.ndarray, "checkpoint"]:
        """Step of each checkpoint."""
        return self._store.read("checkpoint_step")

    @cached_property
    def data(self) -> Dataset:
        """The dataset, loaded again and checked against the hash in the provenance.

        Raises:
            StoreError: the data is not what the run was trained on.
            DataError: it can no longer be read.
        """
        data = datasets.load(self.spec.data)
        if data.hash != self.provenance["data_hash"]:
            raise StoreError(
                f"{self.path} was trained on data of hash {self.provenance['data_hash'][:12]}, {self.spec.data.name} "
                f"now has {data.hash[:12]}: restore the file, or the library version in the provenance"
            )
        return data

    @cached_property
    def model(self) -> MLP | ConvNet:
        """The network that was trained."""
        data = self.provenance["data"]
        shape = data.get("input_shape", [data["num_features"]])  # older runs know no shape
        return from_spec(self.spec.model, tuple(shape), data["num_outputs"])

    @property
    def task(self) -> Literal["classification", "regression"]:
        """What the data asks for."""
        return self.provenance["task"]

    @property
    def loss_kind(self) -> Literal["cross_entropy", "squared_error"]:
        """The data loss, with `auto` resolved."""
        return self.provenance["loss"]

    @cached_property
    def layout(self) -> Layout:
        """Where each leaf of params lies in theta."""
        layout = Layout.of(jax.eval_shape(self.model.init, program.root_key(self.spec)))
        if list(layout.names) != (stored := self.theta.attrs["leaf_names"]):
            raise StoreError(f"{self.path} has the leaves {stored}, this version of wspace has {list(layout.names)}")
        return layout

    @property
    def done(self) -> Bool[np.ndarray, "seed checkpoint"]:
        """What has been stored so far."""
        return np.repeat(self._store.read("done"), self._store.width, axis=0)[: len(self.seeds)]

    @property
    def complete(self) -> bool:
        """Whether every seed has reached the last checkpoint, diverged or not."""
        return bool(np.all(self._store.read("done")))

    @property
    def diverged_at(self) -> Int[np.ndarray, "seed"]:
        """First step at which a seed's objective or params were not finite; -1: none so far."""
        return self._store.read("diverged_at")

    def check(self) -> None:
        """Look at the size of every file, without reading any of theta.

        Raises:
            StoreError: a part is missing or damaged.
        """
        self._store.check()

    def converged(self) -> Bool[np.ndarray, "seed"]:
        """Which seeds reached the last checkpoint with finite numbers: those that analyses may use.

        This says that training ran to its end, not that a minimum was reached: that takes a certificate.
        """
        return self.done[:, -1] & (self.diverged_at < 0)

    def params(self, seed: int | Sequence[int] | None = None, checkpoint: int = -1) -> Params:
        """Params at one checkpoint, as NumPy arrays.

        Args:
            seed: a seed's id -> unstacked params; a sequence of ids, or None for all converged seeds -> stacked params,
                leaves (seed, ...).
            checkpoint: position along `checkpoint_steps`; negative counts from the end.

        Raises:
            KeyError: a seed is not in this run, or has not stored this checkpoint; no seed is converged.
            IndexError: there is no such checkpoint.
        """
        num = len(self.checkpoint_steps)
        if not -num <= checkpoint < num:
            raise IndexError(f"checkpoint {checkpoint} is out of range: this run has {num} checkpoints")
        checkpoint %= num
        if seed is None:
            rows = np.flatnonzero(self.converged())
            if len(rows) == 0:
                raise KeyError("no seed of this run was trained to its end; name the seeds, or resume the run first")
        else:
            ids = np.atleast_1d(np.asarray(seed))
            place = {int(s): i for i, s in enumerate(self.seeds)}
            if unknown := [int(s) for s in ids if int(s) not in place]:
                raise KeyError(
                    f"seeds {unknown} are not in this run, whose {len(place)} seeds are {_brief(self.seeds)}"
                )
            rows = np.array([place[int(s)] for s in ids], int)
            if missing := [int(s) for s, stored in zip(ids, self.done[rows, checkpoint], strict=True) if not stored]:
                raise KeyError(f"seeds {missing} have not stored checkpoint {checkpoint} yet; resume the run first")
        theta = np.asarray(self.theta.oindex[rows, checkpoint])
        return self.layout.unravel(theta[0] if isinstance(seed, int | np.integer) else theta)

    def to_xarray(self) -> "xarray.DataTree":
        """The run as a lazy, labelled DataTree (needs the `xarray` extra): theta, done and the group metrics.

        Coordinates: seed (ids) and checkpoint_step; every array has the dimension names of the store.

        Raises:
            ImportError: xarray is not installed; the message says what to install.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError("to_xarray needs xarray: pip install 'wspace[xarray]'") from error
        path = self.path / "run.zarr"
        labels = {"seed": self.seeds, "checkpoint_step": ("checkpoint", self.checkpoint_steps)}
        root = xarray.open_zarr(path, consolidated=False, chunks=None).drop_vars("seed").assign_coords(labels)
        metrics = xarray.open_zarr(path, group="metrics", consolidated=False, chunks=None)
        root.attrs.update(name=self.spec.name, spec=(self.path / "spec.toml").read_text(encoding="utf-8"))
        return xarray.DataTree.from_dict({"/": root, "/metrics": metrics}, name=self.spec.name)


def _brief(values: np.ndarray) -> str:
    return str(values.tolist()) if len(values) <= 8 else f"{values[:4].tolist()} .. {values[-2:].tolist()}"
