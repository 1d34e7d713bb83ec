"""Losses and accuracies on a line or plane of weight space, exact on all data.

At each point of the plane the first layer's pre-activations are X (W + c_1 W_1 + c_2 W_2) = Z + c_1 Z_1 + c_2 Z_2, so three
matmuls serve the whole grid. Points follow one another inside a compiled program, examples a cacheful at a time, and one
thread for each core takes its share of the points.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from analysis.landscape.planes import Axes, Plane
from analysis.rows import Clock, Row, describe, keep_rows
from analysis.threads import in_threads
from wspace import objective
from wspace.cores import num_cores
from wspace.data import Dataset
from wspace.models import Model, Split
from wspace.objective import LossKind
from wspace.tree import Layout, digest

METRICS = {
    "classification": (
        "train_loss",
        "test_loss",
        "train_objective",
        "test_objective",
        "train_accuracy",
        "test_accuracy",
    ),
    "regression": ("train_loss", "test_loss", "train_objective", "test_objective", "train_r2", "test_r2"),
}
CACHE_VALUES = 2**18  # pre-activations of a chunk of examples, all directions together: 1 MB of float32
POINTS = 64  # at once on accelerators; on CPUs one after another is fastest
KEPT_VALUES = 2**26  # pre-activations kept for the whole grid: 256 MB of float32; beyond, computed row by row

Values = Mapping[str, Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True)
class Surface:
    """Metrics on a grid of a plane. Immutable: its arrays cannot be written to.

    Attributes:
        plane: the line or plane.
        axes: relative coordinates along each axis; odd, symmetric, 0 in the middle.
        values: metric -> (x,) on a line, (x, y) on a plane; float64. What overflows is inf and what is undefined is NaN.
        anchors: metric -> values of the plane's anchors, computed from their own params, (anchor,).
        projected: metric -> values of the plane at the anchors' coordinates, (anchor,): those of `anchors` up to rounding,
            unless an anchor lies off the plane.
        dtype: of the arithmetic.
    """

    plane: Plane
    axes: Axes
    values: Values
    anchors: Values
    projected: Values
    dtype: str

    @property
    def distances(self) -> Axes:
        """The axes in units of distance."""
        return tuple(axis * length for axis, length in zip(self.axes, self.plane.lengths, strict=True))

    @property
    def centre(self) -> dict[str, float]:
        """Metric -> value at the plane's origin.

        Raises:
            ValueError: the origin is not on the grid.
        """
        places = [np.flatnonzero(axis == 0) for axis in self.axes]
        if not all(len(place) for place in places):
            raise ValueError("the plane's origin is not on this grid; `planes.grid` makes grids that hold it")
        middle = tuple(int(place[0]) for place in places)
        return {name: float(values[middle]) for name, values in self.values.items()}


def evaluate(
    model: Model, kind: LossKind, plane: Plane, axes: Axes, data: Dataset, *, metrics: Sequence[str] | None = None,
    l2: float = 0.0, dtype: Literal["float32", "float64"] = "float32", precision: str = "highest",
    chunk: int | None = None, num_threads: int | None = None, path: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Surface:  # fmt: skip
    """Metrics at every point of a grid, exact on the full data.

    Args:
        model: with `apply(params, x)`; with `first` and `rest` as well (`wspace.models.Split`) the first layer is
            computed once for the whole grid.
        kind: the data loss.
        plane: where to look.
        axes: relative coordinates along each of its axes, as `planes.grid` makes them.
        data: train and test examples.
        metrics: of METRICS of the task; default: all. Those of the train set need no test examples, and so on.
        l2: coefficient of the L2 term of train_objective and test_objective.
        dtype: of the arithmetic.
        precision: of matmuls on accelerators.
        chunk: examples at a time; default: what fits the cache. Memory grows with it, results change in rounding only.
        num_threads: default: one for each core.
        path: folder for finished rows, kept under a name made from the content of everything above: the same question
            again is read from there, one that was interrupted goes on.
        progress: told how many points are done and how long the others take.

    Raises:
        ValueError: a metric is unknown or has no examples, the axes do not fit the plane, or `chunk` is not positive.
        StoreError: the folder cannot be written or holds something else.
    """
    names = METRICS[data.task] if metrics is None else tuple(metrics)
    if unknown := [name for name in names if name not in METRICS[data.task]]:
        raise ValueError(f"metrics {unknown} are unknown; for {data.task} there are {', '.join(METRICS[data.task])}")
    if len(axes) != plane.num_axes or any(len(axis) == 0 for axis in axes):
        raise ValueError(f"{len(axes)} axes of lengths {[len(a) for a in axes]}: the plane has {plane.num_axes}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk = {chunk}: at least one example at a time is expected")
    measure = measurer(
        model, kind, data, names, l2=l2, dtype=dtype, precision=precision, chunk=chunk, num_threads=num_threads
    )
    first, *second = axes
    shape = tuple(len(axis) for axis in axes)
    lines = [np.array([[x, y] for y in second[0]]) for x in first] if second else [first[:, None]]
    folder = None
    settings: dict[str, Any] = {}
    if path is not None:
        settings = {
            "model": describe(model), "loss": kind, "data": data.hash, "metrics": list(names), "l2": l2, "dtype": dtype,
            "precision": precision, "origin": digest(plane.origin), "directions": digest(plane.directions),
            "axes": [axis.tolist() for axis in axes], "anchors": [digest(a.params) for a in plane.anchors],
        }  # fmt: skip
        folder = path / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
    of_plane = functools.cache(lambda: measure(plane))  # nothing is prepared when all rows are on disk
    num, marks = int(np.prod(shape)), len(plane.anchors)
    clock = Clock([len(line) for line in lines] + [1] * marks + [len(lines[0])] * bool(marks))

    def tell(done: int, of: int) -> None:
        del of
        progress(f"{min(num, clock.done(done))} of {num} points, about {clock.left(done):.0f} s left")

    def compute(row: int) -> Row:
        if row < len(lines):
            return of_plane()(lines[row])
        if row < len(lines) + marks:
            return measure(_still(plane, plane.anchors[row - len(lines)].params))(np.zeros((1, 0)))
        places = np.zeros((max(marks, len(lines[0])), plane.num_axes))  # as long as a line, for the same program
        places[:marks] = [anchor.coordinates for anchor in plane.anchors]
        return {name: found[:marks] for name, found in of_plane()(places).items()}

    rows = keep_rows(folder, settings, len(lines) + marks + bool(marks), clock.timed(compute), tell)
    grid, own, nearest = rows[: len(lines)], rows[len(lines) : len(lines) + marks], rows[len(lines) + marks :]
    values = {name: np.concatenate([row[name] for row in grid]).reshape(shape) for name in names}
    anchors = {name: np.array([float(row[name][0]) for row in own]) for name in names}
    projected = nearest[0] if nearest else {name: np.zeros(0) for name in names}
    return Surface(
        plane, tuple(map(_sealed, axes)), frozen(values), frozen(anchors), frozen(projected), dtype
    )  # fmt: skip


def measurer(
    model: Model, kind: LossKind, data: Dataset, metrics: Sequence[str], *, l2: float = 0.0, dtype: str = "float32",
    precision: str = "highest", chunk: int | None = None, num_threads: int | None = None,
) -> Callable[[Plane], Callable[[Float[np.ndarray, "point axis"]], Row]]:  # fmt: skip
    """plane -> (relative coordinates -> metric -> float64 values): what `evaluate` and `slices` compute with.

    The data are placed and the programs compiled once; arguments as in `evaluate`.
    """
    splits = [split for split in ("train", "test") if any(name.startswith(split) for name in metrics)]
    threads = num_threads or (num_cores() if jax.default_backend() == "cpu" else 1)
    examples = {s: (getattr(data, f"x_{s}"), getattr(data, f"y_{s}")) for s in splits}
    if empty := [s for s in splits if len(examples[s][0]) == 0]:
        raise ValueError(f"there are no {empty[0]} examples: metrics of the other set alone are expected")
    context = lambda: jax.enable_x64(dtype == "float64")  # noqa: E731
    cast = lambda tree: jax.tree.map(  # noqa: E731
        lambda leaf: jnp.asarray(leaf, dtype if np.issubdtype(np.asarray(leaf).dtype, np.floating) else None), tree
    )
    placed: dict[tuple[str, int], tuple] = {}

    def place(split: str, size: int):
        if (split, size) not in placed:
            placed[split, size] = tuple(cast(_folded(*examples[split], size)))
        return placed[split, size]

    def of_plane(plane: Plane):
        layout, num_axes = Layout.of(plane.origin), plane.num_axes
        with context(), jax.default_matmul_precision(precision), np.errstate(over="ignore"):
            origin, directions = cast(plane.origin), cast(plane.directions)
            prepared = {}
            if isinstance(model, Split) and splits:
                _check_split(model, origin, directions, cast(examples[splits[0]][0][:2]))
            for split in splits:
                size = chunk or chunk_size(model, origin, examples[split][0], num_axes, layout.size)
                x, y, weight = place(split, min(size, len(examples[split][0])))
                program, prepare = _programs(model, kind, data.task)
                kept = isinstance(model, Split) and _kept_values(model, origin, x, num_axes) <= KEPT_VALUES
                inputs = prepare(origin, directions, x) if kept else x
                prepared[split] = (program, inputs, y, weight, kept)
        squares = _squares(plane)

        def at(coordinates: np.ndarray) -> Row:
            found: Row = {}
            workers = min(threads, len(coordinates))
            size = -(-len(coordinates) // workers)
            padded = np.concatenate([coordinates, np.zeros((size * workers - len(coordinates), coordinates.shape[1]))])

            def work(part: np.ndarray):
                with context(), jax.default_matmul_precision(precision), np.errstate(over="ignore"):
                    sums = {}
                    for split, (program, inputs, y, weight, kept) in prepared.items():
                        out = program(origin, directions, cast(part), inputs, y, weight, kept)
                        sums[split] = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).sum(axis=0), out)
                return sums

            parts = in_threads(work, np.split(padded, workers), workers)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what overflows is told as what it is
                penalty = l2 / 2 * _square(coordinates, squares) if l2 else 0.0  # not 0 * inf
                for split in splits:
                    losses, scores = (
                        np.concatenate([part[split][k] for part in parts])[: len(coordinates)] for k in (0, 1)
                    )
                    y = examples[split][1]
                    found[f"{split}_loss"] = losses / len(y)
                    found[f"{split}_objective"] = losses / len(y) + penalty
                    if data.task == "classification":
                        found[f"{split}_accuracy"] = scores / len(y)
                    else:
                        found[f"{split}_r2"] = 1 - scores / np.sum(np.square(y - np.mean(y, axis=0, dtype=np.float64)))
            return {name: found[name] for name in metrics}

        return at

    return of_plane


def _check_split(model: Split, origin: Any, directions: Any, x: Any) -> None:
    """The first layer is linear in the params and the rest does the rest, on two examples; nothing to see in NaN."""
    whole = model.rest(origin, model.first(origin, x))
    received = [model.first(origin, x)]
    for k in range(jax.tree.leaves(directions)[0].shape[0]):
        received.append(model.first(jax.tree.map(lambda d, k=k: d[k], directions), x))
    moved = model.first(jax.tree.map(lambda o, d: o + d.sum(axis=0), origin, directions), x)
    for name, found, expected in (
        ("rest(params, first(params, x)) is not apply(params, x)", whole, model.apply(origin, x)),
        ("first(params, x) is not linear in the params", sum(received), moved),
    ):
        scale = jnp.max(jnp.abs(expected)) + sum(jnp.max(jnp.abs(part)) for part in received)
        if jnp.max(jnp.abs(found - expected)) > 1e-3 * scale:
            raise ValueError(f"{type(model).__name__}: {name}; mend it, or leave first and rest away")


def chunk_size(model: Model, params: Any, x: np.ndarray, num_axes: int, num_params: int) -> int:
    """Examples at a time: their pre-activations fit the cache, unless adding up the params would then take longer.

    The chunks that result are of nearly equal size.
    """
    if isinstance(model, Split):
        width = (1 + num_axes) * _num_units(model, params, x)
        size = max(CACHE_VALUES, 2 * num_params) // width
    else:
        size = objective.chunk_examples(model, params, x.shape, 1)
    size = min(len(x), max(1, size))
    return -(-len(x) // -(-len(x) // size))


def frozen(values: Mapping[str, np.ndarray]) -> Values:
    """A mapping of float64 arrays that nobody can write to."""
    return MappingProxyType({name: _sealed(array) for name, array in values.items()})


@objective.cache_compiled
def _programs(model: Model, kind: LossKind, task: str) -> tuple[Callable, Callable]:
    split = isinstance(model, Split)

    def pre(origin, directions, x):
        """(1 + axis, example, unit): what the first layer's units receive from the origin and from each direction."""
        whole = jax.tree.map(lambda o, d: jnp.concatenate([o[None], d]), origin, directions)
        return jax.vmap(model.first, in_axes=(0, None))(whole, x)  # type: ignore[attr-defined]

    def combine(coordinates, origin, directions):
        total = origin
        for k in range(directions.shape[0]):  # not a matmul: it is fused with what follows
            total = total + coordinates[k] * directions[k]
        return total

    def example_loss(outputs, y):
        if kind != "cross_entropy":
            return objective.example_loss(kind, outputs, y)
        # as there, but vectorised over examples and without a gather: a small network's point takes 15 % less
        own = jnp.arange(outputs.shape[-1])[:, None] == y
        return jax.nn.logsumexp(outputs.T, axis=0) - jnp.sum(jnp.where(own, outputs.T, 0), axis=0)

    def sums(outputs, y, weight):
        losses = example_loss(outputs, y)
        if task == "classification":
            scores = objective.accuracy(outputs, y)
        else:
            scores = objective.example_loss("squared_error", outputs, y)
        counted = lambda values: jnp.sum(jnp.where(weight > 0, values, 0))  # noqa: E731 - not 0 * inf
        return counted(losses), counted(scores)

    def program(origin, directions, points, inputs, y, weight, kept):
        def chunk(_, part):
            inputs, y, weight = part
            received = None if not split else inputs if kept else pre(origin, directions, inputs)

            def at(c):
                params = jax.tree.map(lambda o, d: combine(c, o, d), origin, directions)
                if received is None:
                    return sums(model.apply(params, inputs), y, weight)
                return sums(model.rest(params, combine(c, received[0], received[1:])), y, weight)  # type: ignore

            return None, jax.lax.map(at, points, batch_size=None if jax.default_backend() == "cpu" else POINTS)

        return jax.lax.scan(chunk, None, (inputs, y, weight))[1]

    prepare = lambda origin, directions, x: jax.lax.map(lambda part: pre(origin, directions, part), x)  # noqa: E731
    return jax.jit(program, static_argnums=6), jax.jit(prepare)


def _folded(x: np.ndarray, y: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunks of examples, (chunk, example, ...); the last is padded with examples of weight 0."""
    pad = -len(x) % size
    weight = np.concatenate([np.ones(len(x), np.float32), np.zeros(pad, np.float32)])
    fold = lambda a: np.concatenate([a, a[:1].repeat(pad, axis=0)]).reshape(-1, size, *a.shape[1:])  # noqa: E731
    return fold(x), fold(y), weight.reshape(-1, size)


def _num_units(model: Split, params: Any, x: Any) -> int:
    return jax.eval_shape(model.first, params, jax.ShapeDtypeStruct((1, *x.shape[1:]), jnp.float32)).size


def _kept_values(model: Split, params: Any, x: Any, num_axes: int) -> int:
    return (1 + num_axes) * x.shape[0] * x.shape[1] * _num_units(model, params, x[0])


def _still(plane: Plane, params: Any) -> Plane:
    """A plane without directions: one network, for the same programs."""
    none = jax.tree.map(lambda leaf: leaf[:0], plane.directions)
    return Plane(jax.tree.map(np.asarray, params), none, (), "one network")


def _squares(plane: Plane) -> tuple[float, np.ndarray, np.ndarray]:
    """|origin|^2, <origin, direction_k>, |direction_k|^2, in float64."""
    pairs = list(zip(jax.tree.leaves(plane.origin), jax.tree.leaves(plane.directions), strict=True))
    own = sum(np.sum(np.square(np.float64(o))) for o, _ in pairs)
    cross = sum(np.float64(d).reshape(len(d), o.size) @ np.float64(o).ravel() for o, d in pairs)
    return float(own), np.asarray(cross), np.square(plane.lengths) if plane.num_axes else np.zeros(0)


def _square(coordinates: np.ndarray, squares: tuple[float, np.ndarray, np.ndarray]) -> np.ndarray:
    """|theta|^2 at relative coordinates: directions are orthogonal."""
    own, cross, lengths = squares
    return own + 2 * coordinates @ cross + np.square(coordinates) @ lengths


def _sealed(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, np.float64)
    copy.setflags(write=False)
    return copy
