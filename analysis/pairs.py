"""Matrices over pairs of networks that take a while: computed row by row, kept on disk, resumed where they stopped."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wspace import store
from wspace.errors import StoreError

Row = dict[str, np.ndarray]
RECORD = "pairs.json"
_ROW = re.compile(r"row-\d{5}\.npz|\.row-\d{5}\.npz\.\d+\.partial|\.pairs\.json\.\d+\.partial")


def pair_rows(
    path: Path | None,
    settings: Mapping[str, Any],
    num: int,
    compute: Callable[[int], Row],
    progress: Callable[[int, int], None] = lambda done, num: None,
) -> list[Row]:
    """Rows 0 .. num-2 of a symmetric matrix; row i holds the pairs (i, i+1), .., (i, num-1).

    Each finished row is one npz file that appears whole or not at all; what is there is read, not computed again.

    Args:
        path: folder beside the run, or None to keep nothing.
        settings: everything that the numbers depend on, as JSON; rows of other settings are removed and computed anew.
        num: networks.
        compute: row number -> name -> values of its pairs, (num - 1 - row, ...).
        progress: called with (rows finished, rows) after each.

    Raises:
        StoreError: the folder cannot be written, holds something else, or a row is damaged.
    """
    if path is None:
        rows = []
        for index in range(num - 1):
            rows.append(compute(index))
            progress(index + 1, num - 1)
        return rows
    _prepare(path, json.dumps(dict(settings), indent=2, sort_keys=True) + "\n")
    rows = []
    for index in range(num - 1):
        file = path / f"row-{index:05d}.npz"
        if not file.exists():
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **compute(index))
            with store.writing(path):
                store.replace_file(file, buffer.getvalue())
        rows.append(_read(file))
        progress(index + 1, num - 1)
    return rows


def square(rows: list[Row], name: str, diagonal: float = 0.0) -> np.ndarray:
    """(num, num) symmetric matrix of one number per pair."""
    num = len(rows) + 1
    matrix = np.full((num, num), diagonal, float)
    for index, row in enumerate(rows):
        matrix[index, index + 1 :] = matrix[index + 1 :, index] = row[name]
    return matrix


def _read(file: Path) -> Row:
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
        foreign = [entry.name for entry in path.iterdir() if entry.name != RECORD and not _ROW.fullmatch(entry.name)]
        if foreign or (not record.exists() and any(path.iterdir())):
            raise StoreError(
                f"{path} holds {foreign or 'rows without a record'}: it is no folder of pairs; name another"
            )
        if record.exists() and record.read_text(encoding="utf-8") == settings:
            return
        for row in path.glob("row-*.npz"):
            row.unlink()
        store.replace_file(record, settings.encode())
