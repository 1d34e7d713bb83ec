"""Matrices over pairs of networks that take a while: see `analysis.rows`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.rows import Row, keep_rows


def pair_rows(
    path: Path | None,
    settings: Mapping[str, Any],
    num: int,
    compute: Callable[[int], Row],
    progress: Callable[[int, int], None] = lambda done, num: None,
) -> list[Row]:
    """Rows 0 .. num-2 of a symmetric matrix; row i holds the pairs (i, i+1), .., (i, num-1).

    Args:
        path, settings, progress: see `analysis.rows.keep_rows`.
        num: networks.
        compute: row number -> name -> values of its pairs, (num - 1 - row, ...).
    """
    return keep_rows(path, settings, num - 1, compute, progress)


def square(rows: list[Row], name: str, diagonal: float = 0.0) -> np.ndarray:
    """(num, num) symmetric matrix of one number per pair."""
    num = len(rows) + 1
    matrix = np.full((num, num), diagonal, float)
    for index, row in enumerate(rows):
        matrix[index, index + 1 :] = matrix[index + 1 :, index] = row[name]
    return matrix
