"""Points in weight space, in memory or on disk, read in parts: blocks of whole points, or slices of params of all points."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, get_args

import jax
import numpy as np
from jaxtyping import Float, Int, Num

Centre = Literal["mean", "init", "final"]
Item = TypeVar("Item")

SLICE_BYTES = 2**25  # of params of all points converted to float64 at once


class Points:
    """Chosen, weighted points, read in float64 relative to an origin; the array itself is never changed.

    An array on disk is one with a shape that is read by indexing, such as `run.theta`. Its `chunks` are read whole, the next
    one while one is worked on: zarr decodes all of a chunk whatever is asked of it, compressed or not.

    Attributes:
        batch: shape of the points without params.
        num: how many there are.
        num_params: of each.
        weights: of the points, one after another; the sum is 1.
        equal: whether they weigh alike.
        num_counted: points whose weight is not 0.
        precision: relative rounding of the params as stored.
        farthest: largest |origin|, once all points were read.
    """

    def __init__(
        self, points: Any, centre: Centre, weights: Num[np.ndarray, "*weighted"] | None,
        seeds: Sequence[int] | Int[np.ndarray, "_"] | None, most_bytes: int,
    ):  # fmt: skip
        """Arguments and errors: see `components.principal_components`."""
        if centre not in get_args(Centre):
            raise ValueError(f"centre = {centre!r}: one of {get_args(Centre)} is expected")
        if len(points.shape) not in (2, 3):
            raise ValueError(
                f"points have shape {points.shape}: (point, param) or (seed, checkpoint, param) is expected"
            )
        self.held = isinstance(points, np.ndarray | jax.Array)
        self._points = np.asarray(points) if self.held else points
        if self.held and self._points.dtype.kind != "f":  # integers, or floats that NumPy does not know
            self._points = self._points.astype(np.float64)
        self._dtype = np.dtype(self._points.dtype)
        self._deep, self._centre, self._most = len(points.shape) == 3, centre, most_bytes
        self._rows = _positions(seeds, points.shape[0])
        self.batch, self.num_params = (len(self._rows), *points.shape[1:-1]), points.shape[-1]
        self.num, self._length = math.prod(self.batch), self.batch[1] if self._deep else 1
        if self.num * self.num_params == 0:
            raise ValueError(f"points have shape {(*self.batch, self.num_params)}: there are none")
        self.weights = _weights(weights, self.batch)
        self.num_counted, self.equal = int(np.sum(self.weights > 0)), len(np.unique(self.weights)) == 1
        self.precision = max(float(np.finfo(self._dtype).eps), self.num * float(np.finfo(float).eps))
        self.farthest, self._finite = 0.0, False
        self._shared: np.ndarray | None = None  # the origin, where it is one for all
        if centre != "mean" and not self._deep:
            row = int(self._rows[0 if centre == "init" else -1])
            self._shared = np.asarray(self._points[row : row + 1], np.float64)[0]
        self.own = centre != "mean" and self._deep

    def origin(self) -> Float[np.ndarray, "*own param"]:
        """What points are measured from: float64, but the ends of several trajectories have the dtype of the points."""
        if self._shared is not None:
            return self._shared
        if not self.own:
            return self.mean()
        ends = np.empty((self.batch[0], self.num_params), self._dtype)
        for index, checkpoints, tile in self._tiles(only=self._end):
            ends[index] = tile[:, self._end - checkpoints.start]
        return ends if len(ends) > 1 else ends[0].astype(np.float64)

    def mean(
        self, also: Callable[[np.ndarray, np.ndarray], None] = lambda at, rows: None
    ) -> Float[np.ndarray, "param"]:
        """The weighted mean, in one pass unless it is known, and from then on the origin.

        Args:
            also: called in that pass with the positions of a block of points and its rows, as they are.
        """
        if self._shared is None:
            self._shared, total = np.zeros(self.num_params), np.zeros(self.num_params)
            for at, rows in self.blocks():
                total += self.weights[at] @ rows
                also(at, rows)
            self._shared = total
        return self._shared

    def blocks(self) -> Iterator[tuple[Int[np.ndarray, "part"], Float[np.ndarray, "part param"]]]:
        """Positions of some points and their rows less the origin, in one pass; rows are overwritten by the next block."""
        if not self.own and self._shared is None:
            self.mean()
        size = min(self.num, max(1, self._most // (8 * self.num_params)))
        rows, at, filled = np.empty((size, self.num_params)), np.empty(size, int), 0
        positions = np.arange(self.num).reshape(-1, self._length)
        origin: Any = self._shared
        for index, checkpoints, tile in self._tiles():
            if self.own and checkpoints.start <= self._end < checkpoints.stop:  # the first of these seeds' tiles
                origin = tile[:, self._end - checkpoints.start][:, None].astype(np.float64)
                self.farthest = max(self.farthest, float(np.sqrt(np.square(origin).sum(axis=-1).max())))
            for some, when in _pieces(tile.shape[:2], size):
                piece = tile[some, when]
                num = piece.shape[0] * piece.shape[1]
                if filled + num > size:
                    yield at[:filled], rows[:filled]
                    filled = 0
                out = rows[filled : filled + num]
                np.subtract(piece, origin[some] if self.own else origin, out=out.reshape(piece.shape), dtype=np.float64)
                chosen = positions[index[some], checkpoints][:, when]
                at[filled : filled + num], filled = chosen.ravel(), filled + num
        if not self.own:
            self.farthest = float(np.linalg.norm(origin))
        self._finite = True
        yield at[:filled], rows[:filled]

    def slices(self) -> Iterator[Float[np.ndarray, "point part"]]:
        """Some params of all points, less the origin, in order.

        From disk as many params at once as `most_bytes` holds: every chunk is decoded for each such part.
        """
        at_once = self.num_params if self.held else max(1, self._most // (self._dtype.itemsize * self.num))
        narrow, mean = max(1, SLICE_BYTES // (8 * self.num)), np.empty(self.num_params)
        for low in range(0, self.num_params, at_once):
            part = slice(low, min(low + at_once, self.num_params))
            kept = None if self.held else self._gathered(part)
            for first in range(part.start, part.stop, narrow):
                some = slice(first, min(first + narrow, part.stop))
                found = self._held(some) if kept is None else kept[..., some.start - low : some.stop - low]
                if kept is None:
                    self._check_finite(found)
                block = found.astype(np.float64)
                rows = block.reshape(self.num, -1)
                if self.own:
                    block -= block[:, self._end, None].copy()
                elif self._shared is not None:
                    rows -= self._shared[some]
                else:
                    mean[some] = self.weights @ rows
                    rows -= mean[some]
                yield rows
        if not self.own and self._shared is None:
            self._shared = mean
        self._finite = True

    def everything(self) -> Float[np.ndarray, "point param"]:
        """All points as they are, for those that fit into memory."""
        rows = np.empty((*self.batch, self.num_params)).reshape(self.batch[0], -1, self.num_params)
        for index, checkpoints, tile in self._tiles():
            rows[index, checkpoints] = tile
        return rows.reshape(self.num, -1)

    @property
    def _end(self) -> int:
        return 0 if self._centre == "init" else self._length - 1

    def _held(self, part: slice) -> np.ndarray:
        """(seed, checkpoint, param) of an array in memory."""
        rows: Any = slice(None) if np.array_equal(self._rows, np.arange(self._points.shape[0])) else self._rows
        found = self._points[rows, ..., part]
        return found if self._deep else found[:, None]

    def _gathered(self, part: slice) -> np.ndarray:
        kept = np.empty((self.batch[0], self._length, part.stop - part.start), self._dtype)
        for index, checkpoints, tile in self._tiles(part):
            kept[index, checkpoints] = tile
        return kept

    def _tiles(
        self, part: slice = slice(None), only: int | None = None
    ) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
        """(positions along the chosen seeds, checkpoints, values), chunk by chunk, or those with the checkpoint `only`.

        Of each group of seeds the tile with the checkpoint that is their origin comes first.
        """
        groups = self._groups()
        spans = [slice(low, min(low + groups[1], self._length)) for low in range(0, self._length, groups[1])]
        spans.sort(key=lambda span: not span.start <= self._end < span.stop)
        if only is not None:
            spans = [span for span in spans if span.start <= only < span.stop]

        def read(index: np.ndarray, span: slice) -> tuple[np.ndarray, slice, np.ndarray]:
            rows = self._rows[index]
            low, high = int(rows.min()), int(rows.max()) + 1
            tile = np.asarray(self._points[(slice(low, high), *([span] if self._deep else []), part)])
            if not np.array_equal(rows, np.arange(low, high)):
                tile = tile[rows - low]
            return index, span, tile if self._deep else tile[:, None]

        tasks = (lambda index=index, span=span: read(index, span) for index in groups[0] for span in spans)
        for index, span, tile in (task() for task in tasks) if self.held else _ahead(tasks):
            self._check_finite(tile, index)
            yield index, span, tile

    def _groups(self) -> tuple[list[np.ndarray], int]:
        """Positions along the chosen seeds that are read together, and how many checkpoints are."""
        chunks = None if self.held else getattr(self._points, "chunks", None)
        if chunks is not None:
            number = self._rows // chunks[0]
            return [np.flatnonzero(number == own) for own in np.unique(number)], chunks[1] if self._deep else 1
        length = self._length if self.held else 1
        most = max(1, self._most // (self._dtype.itemsize * self.num_params * length))
        breaks = np.flatnonzero(np.diff(self._rows) != 1) + 1
        runs = np.split(np.arange(len(self._rows)), breaks)
        return [run[low : low + most] for run in runs for low in range(0, len(run), most)], length

    def _check_finite(self, values: np.ndarray, index: np.ndarray | None = None) -> None:
        if self._finite or np.all(np.isfinite(values)):
            return
        self._finite = True  # the search below reads the same again
        index = np.arange(len(values)) if index is None else index
        bad = set(index[~np.isfinite(values).all(axis=(1, 2))].tolist())
        for others, _, tile in self._tiles():
            bad |= set(others[~np.isfinite(tile).all(axis=(1, 2))].tolist())
        positions = sorted({int(self._rows[i]) for i in bad})
        raise ValueError(f"points at positions {positions} along the first axis are not finite: leave them out")


def _positions(seeds: Any, num: int) -> np.ndarray:
    if seeds is None:
        return np.arange(num)
    rows = np.asarray(seeds)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(f"seeds = {seeds!r}: positions are expected, for a mask np.flatnonzero(mask)")
    if rows.size and not (rows.min() >= 0 and rows.max() < num):
        raise ValueError(f"seeds = {rows.tolist()}: positions from 0 to {num - 1} are expected")
    return rows.astype(int)


def _weights(weights: np.ndarray | None, batch: tuple[int, ...]) -> np.ndarray:
    num = math.prod(batch)
    if weights is None:
        return np.full(num, 1 / num)
    if weights.shape != batch[-1:]:
        what = "checkpoint" if len(batch) == 2 else "point"
        raise ValueError(f"weights have shape {weights.shape}: one for each {what}, {batch[-1:]}, is expected")
    if not (np.all(np.isfinite(weights)) and np.all(weights >= 0) and np.any(weights > 0)):
        raise ValueError(f"weights = {weights.tolist()}: numbers that are not negative, nor all zero, are expected")
    every = np.broadcast_to(weights.astype(np.float64), batch).ravel()
    return every / every.sum()


def _pieces(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, slice]]:
    """Parts of an array of seeds and checkpoints with at most so many points."""
    seeds, length = max(1, most // shape[1]), min(most, shape[1])
    for low in range(0, shape[0], seeds):
        for first in range(0, shape[1], length):
            yield slice(low, low + seeds), slice(first, first + length)


def _ahead(tasks: Iterable[Callable[[], Item]]) -> Iterator[Item]:
    """Results in order; the next one is made in a thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for task in tasks:
            following = pool.submit(task)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
