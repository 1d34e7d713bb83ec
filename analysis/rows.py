"""Results that take a while: computed row by row, kept on disk, resumed where they stopped."""

import hashlib
import inspect
import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from wspace import store
from wspace.errors import StoreError

Row = dict[str, np.ndarray]
RECORD = "rows.json"
_ROW = re.compile(
    r"row-\d{5}\.npz|\.row-\d{5}\.npz\.\d+\.partial|(pairs|rows)\.json|\.(pairs|rows)\.json\.\d+\.partial"
)


def keep_rows(
    path: Path | None,
    settings: Mapping[str, Any],
    num: int,
    compute: Callable[[int], Row],
    progress: Callable[[int, int], None] = lambda done, num: None,
) -> list[Row]:
    """compute(0) .. compute(num - 1).

    Each finished row is one npz file that appears whole or not at all; what is there is read, not computed again.

    Args:
        path: folder beside the run, or None to keep nothing.
        settings: everything that the numbers depend on, as JSON; rows of other settings, or of another version of wspace,
            are removed and computed anew.
        num: rows.
        compute: row number -> name -> values.
        progress: called with (rows finished, rows) after each.

    Raises:
        StoreError: the folder cannot be written, holds something else, or a row is damaged.
    """
    if path is not None:
        _prepare(path, json.dumps(dict(settings) | {"wspace": version("wspace")}, indent=2, sort_keys=True) + "\n")
    rows = []
    for index in range(num):
        rows.append(compute(index) if path is None else _kept(path / f"row-{index:05d}.npz", index, compute))
        progress(index + 1, num)
    return rows


def describe(model: Any) -> str:
    """What a model is, for the settings of rows on disk: its module, repr, and a hash of its class' source.

    Raises:
        ValueError: its repr holds an address, which in another process may be another model's.
    """
    text = repr(model)
    if " at 0x" in text:
        raise ValueError(
            f"the repr of {type(model).__name__} holds an address ({text}), so results on disk could not be told from those "
            "of another model: give it one that says all that it computes (a frozen dataclass of numbers and names has), or "
            "keep no rows"
        )
    try:
        source = inspect.getsource(type(model))
    except (OSError, TypeError):  # not written in a file, e.g. at a prompt
        source = ""
    return f"{type(model).__module__}.{text} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


class Clock:
    """How long the rows that are not done yet will take, judged by those that were computed and not read from disk.

    Args:
        sizes: how much work each row is, in any unit.
    """

    def __init__(self, sizes: Sequence[float] | np.ndarray):
        self._sizes, self._upto = sizes, np.cumsum(sizes)
        self._spent = self._computed = 0.0

    def timed(self, compute: Callable[[int], Row]) -> Callable[[int], Row]:
        """The same function, with a look at the clock."""

        def run(index: int) -> Row:
            began = time.monotonic()
            row = compute(index)
            self._spent += time.monotonic() - began
            self._computed += self._sizes[index]
            return row

        return run

    def done(self, rows: int) -> int:
        """Work in the first rows."""
        return int(self._upto[rows - 1])

    def left(self, rows: int) -> float:
        """Seconds that what follows the first rows will take; 0 while nothing was computed."""
        return self._spent * float(self._upto[-1] - self._upto[rows - 1]) / max(self._computed, 1e-9)


def _kept(file: Path, index: int, compute: Callable[[int], Row]) -> Row:
    if not file.exists():
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **compute(index))
        with store.writing(file.parent):
            store.replace_file(file, buffer.getvalue())
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{file} is damaged ({type(error).__name__}): remove it, and it is computed anew") from error


def _prepare(path: Path, settings: str) -> None:
    """A folder with these settings: kept if it has them, emptied of rows if it has others, refused if it is not ours."""
    record = path / RECORD
    with store.writing(path):
        path.mkdir(parents=True, exist_ok=True)
        foreign = [entry.name for entry in path.iterdir() if not _ROW.fullmatch(entry.name)]
        known = record.exists() or (path / "pairs.json").exists()
        if foreign or (not known and any(path.iterdir())):
            raise StoreError(
                f"{path} holds {foreign or 'rows without a record'}: it is no folder of rows; name another"
            )
        if record.exists() and record.read_text(encoding="utf-8") == settings:
            return
        for old in (*path.glob("row-*.npz"), path / "pairs.json"):  # the latter by wspace before its first release
            old.unlink(missing_ok=True)
        store.replace_file(record, settings.encode())
