"""Rows of pairs, and the square that they make; how rows are kept is tested in test_rows.py."""

import numpy as np

from analysis.pairs import pair_rows, square


def row(index, num=4):
    return {"value": 10.0 * index + np.arange(index + 1, num)}


def test_one_network_has_no_pairs(tmp_path):
    for path in (None, tmp_path):
        assert pair_rows(path, {}, 1, row) == []


def test_a_square_is_symmetric_and_has_its_diagonal():
    matrix = square(pair_rows(None, {}, 4, row), "value", diagonal=7.0)
    expected = [[7, 1, 2, 3], [1, 7, 12, 13], [2, 12, 7, 23], [3, 13, 23, 7]]
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(square([], "value", 1.0), [[1]])
    flags = square([{"ok": np.array([True, False])}, {"ok": np.array([True])}], "ok", 1.0)
    np.testing.assert_array_equal(flags.astype(bool), [[1, 1, 0], [1, 1, 1], [0, 1, 1]])
