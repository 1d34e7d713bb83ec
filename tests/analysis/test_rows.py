import dataclasses
import importlib.util
import json
import sys
from importlib.metadata import version

import numpy as np
import pytest

from analysis.rows import Clock, describe, keep_rows
from wspace import MLP
from wspace.errors import StoreError


def pair_rows(path, settings, num, compute, *options):
    return keep_rows(path, settings, num - 1, compute, *options)


SETTINGS = {"matcher": "weights", "networks": 4}


class Compute:
    """Row i of matrices that hold 10 i + j, counted."""

    def __init__(self, num=4, fail_at=None):
        self.num, self.fail_at, self.rows = num, fail_at, []

    def __call__(self, row):
        if row == self.fail_at:
            raise KeyboardInterrupt
        self.rows.append(row)
        others = np.arange(row + 1, self.num)
        return {"value": 10.0 * row + others, "unit": np.stack([others, -others], axis=1).astype(np.int32)}


def assert_rows(rows, num=4):
    assert len(rows) == num - 1
    for got, expected in zip(rows, map(Compute(num), range(num - 1)), strict=True):
        assert set(got) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
            assert got[name].dtype == expected[name].dtype


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("kept", [False, True])
def test_rows_are_computed_in_order_and_told(tmp_path, kept):
    compute, seen = Compute(), []
    rows = pair_rows(tmp_path / "a" / "b" if kept else None, SETTINGS, 4, compute, lambda *done: seen.append(done))
    assert_rows(rows)
    assert compute.rows == [0, 1, 2]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    if kept:
        assert set(files(tmp_path / "a" / "b")) == {"rows.json", *(f"row-0000{i}.npz" for i in range(3))}
        assert json.loads((tmp_path / "a" / "b" / "rows.json").read_text()) == SETTINGS | {"wspace": version("wspace")}


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_a_killed_computation_goes_on_with_the_row_that_it_stopped_in(tmp_path, fail_at):
    first, second, third = Compute(fail_at=fail_at), Compute(), Compute()
    with pytest.raises(KeyboardInterrupt):
        pair_rows(tmp_path, SETTINGS, 4, first)
    assert_rows(pair_rows(tmp_path, SETTINGS, 4, second))
    assert first.rows + second.rows == [0, 1, 2]
    assert second.rows[0] == fail_at
    assert_rows(pair_rows(tmp_path, dict(reversed(SETTINGS.items())), 4, third))
    assert third.rows == []


def test_rows_of_other_settings_are_removed(tmp_path):
    pair_rows(tmp_path, {**SETTINGS, "networks": 6}, 6, Compute(6))
    compute = Compute()
    assert_rows(pair_rows(tmp_path, SETTINGS, 4, compute))
    assert compute.rows == [0, 1, 2]
    assert len(files(tmp_path)) == 4


@pytest.mark.parametrize("name", ["thesis.tex", "row-00000.npz"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    compute = Compute()
    with pytest.raises(StoreError, match="it is no folder of rows; name another"):
        pair_rows(tmp_path, SETTINGS, 4, compute)
    assert compute.rows == []
    assert files(tmp_path) == {name: b"years of work"}


def test_a_file_in_the_folders_place_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "pairs"
    path.write_text("years of work")
    with pytest.raises(StoreError, match="cannot write to"):
        pair_rows(path, SETTINGS, 4, Compute())
    assert path.read_text() == "years of work"


def test_a_row_that_cannot_be_written_leaves_nothing_half_made(tmp_path, monkeypatch):
    pair_rows(tmp_path, SETTINGS, 4, Compute(fail_at=None))
    (tmp_path / "row-00001.npz").unlink()
    before = files(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wspace.store.os.replace", full)
        with pytest.raises(StoreError, match="No space left on device"):
            pair_rows(tmp_path, SETTINGS, 4, Compute())
    assert files(tmp_path) == before
    compute = Compute()
    assert_rows(pair_rows(tmp_path, SETTINGS, 4, compute))
    assert compute.rows == [1]


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        pair_rows(tmp_path, SETTINGS, 2, lambda row: {"value": np.array([{}], object)})
    assert set(files(tmp_path)) == {"rows.json"}


def test_a_damaged_row_is_named(tmp_path):
    compute = lambda index: {"value": np.arange(2.0 - index)}  # noqa: E731
    pair_rows(tmp_path / "rows", {}, 3, compute)
    row = tmp_path / "rows" / "row-00001.npz"
    row.write_bytes(row.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"row-00001.npz is damaged .*remove it"):
        pair_rows(tmp_path / "rows", {}, 3, compute)


def test_a_folder_of_ours_with_a_stranger_in_it_is_refused_even_when_settings_change(tmp_path):
    pair_rows(tmp_path, SETTINGS, 4, Compute())
    (tmp_path / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    for settings in (SETTINGS, {"other": 1}):
        with pytest.raises(StoreError, match=r"thesis\.tex"):
            pair_rows(tmp_path, settings, 4, Compute())
    assert files(tmp_path) == before


def test_rows_of_an_earlier_version_are_removed(tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "row-00000.npz").write_bytes(b"old")
    assert_rows(pair_rows(tmp_path, SETTINGS, 4, Compute()))
    assert set(files(tmp_path)) == {"rows.json", *(f"row-0000{i}.npz" for i in range(3))}


def test_a_model_is_described_by_its_own_repr_or_not_at_all():
    class Bare:
        pass

    @dataclasses.dataclass(frozen=True)
    class Held:
        phi: object

    assert repr(MLP((2, 3))) in describe(MLP((2, 3)))
    assert describe(MLP((2, 3))) != describe(MLP((2, 4)))
    assert describe(Held(1)) == describe(Held(1))
    for model in (Bare(), Held(lambda x: x)):
        with pytest.raises(ValueError, match="holds an address"):
            describe(model)


def test_a_class_that_was_edited_is_another_model(tmp_path, monkeypatch):
    found = []
    for number, body in enumerate(("x", "2 * x")):
        path = tmp_path / f"v{number}" / "own.py"
        path.parent.mkdir()
        path.write_text(
            "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Own:\n"
            f"    def apply(self, params, x):\n        return {body}\n"
        )
        spec = importlib.util.spec_from_file_location("own", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own", module)
        spec.loader.exec_module(module)
        found.append(describe(module.Own()))
    assert found[0].startswith("own.Own()")
    assert found[0] != found[1]


def test_the_clock_counts_only_rows_that_were_computed(tmp_path, monkeypatch):
    now = iter(np.arange(100.0))
    monkeypatch.setattr("analysis.rows.time.monotonic", lambda: next(now))
    told = []
    for last in (2, 4):
        clock = Clock([1, 2, 3, 4])
        compute = clock.timed(lambda index: {"value": np.array([index])})
        tell = lambda done, of, clock=clock: told.append((clock.done(done), clock.left(done)))  # noqa: E731
        keep_rows(tmp_path, {}, last, compute, tell)
    assert told[:2] == [(1, 9.0), (3, 7 * 2 / 3)]
    assert told[2:] == [(1, 0.0), (3, 0.0), (6, 4 / 3), (10, 0.0)]
