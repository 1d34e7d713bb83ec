import contextlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wspace import objective, program, store, sweep
from wspace import spec as specs
from wspace.data import load
from wspace.errors import PlatformError, SpecError, StoreError
from wspace.run import open_run
from wspace.store import Store
from wspace.sweep import Outcome, open_sweep, run_sweep
from wspace.train import train

RATES = {"optimizer.learning_rate": [0.01, 0.1]}


@pytest.fixture
def spec(make_spec):
    return make_spec(sweep=RATES)


def listed(path):
    return json.loads((path / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture
def traces(monkeypatch):
    """How often the loss has been traced for training so far."""
    count = []
    right = objective.loss_and_gradient
    monkeypatch.setattr(objective, "loss_and_gradient", lambda *args: count.append(1) or right(*args))
    return count


def test_every_point_is_an_ordinary_run_in_a_folder_of_its_own(spec, tmp_path):
    outcomes = run_sweep(spec, tmp_path / "s", num_devices=1)
    assert [(o.point.values, o.error, o.num_diverged) for o in outcomes] == [
        ({"optimizer.learning_rate": 0.01}, None, 0),
        ({"optimizer.learning_rate": 0.1}, None, 0),
    ]
    for outcome in outcomes:
        run = open_run(tmp_path / "s" / outcome.point.folder)
        assert run.complete
        assert run.spec == outcome.point.spec
        alone = train(outcome.point.spec, tmp_path / "alone" / outcome.point.folder, num_devices=1)
        np.testing.assert_array_equal(run.theta[:], alone.theta[:])
    assert specs.load(tmp_path / "s" / "spec.toml") == spec


def test_sweep_json_lists_the_points(spec, tmp_path):
    run_sweep(spec, tmp_path / "s", num_devices=1)
    assert listed(tmp_path / "s") == {
        "name": "toy",
        "fields": ["optimizer.learning_rate"],
        "points": [
            {
                "folder": f"learning_rate={r}",
                "values": {"optimizer.learning_rate": r},
                "status": "complete",
                "error": None,
            }
            for r in (0.01, 0.1)
        ],
    }


def test_open_sweep_gives_the_runs_in_grid_order_and_none_for_points_not_begun(spec, tmp_path):
    run_sweep(spec, tmp_path / "s", num_devices=1)
    (tmp_path / "s" / "learning_rate=0.01").rename(tmp_path / "elsewhere")
    (first, missing), (second, run) = open_sweep(tmp_path / "s")
    assert (first, missing) == ({"optimizer.learning_rate": 0.01}, None)
    assert second == {"optimizer.learning_rate": 0.1}
    assert run is not None
    assert run.spec.optimizer.learning_rate == 0.1


@pytest.mark.parametrize(
    "axes",
    [
        {"optimizer.learning_rate": [0.02, 0.5], "optimizer.weight_decay": [0.0, 0.1]},
        {"optimizer.momentum": [0.5, 0.9], "objective.l2": [0.0, 0.01], "model.init_scale": [0.5, 2.0]},
        {"seeds.root": [1, 2], "data.split_seed": [1, 2], "checkpoints.num": [2, 3]},
    ],
)
def test_values_that_change_no_shape_share_one_compiled_program(make_spec, tmp_path, traces, axes):
    shared = {"model": {"hidden": [3, 4]}, "optimizer": {"name": "momentum"}}
    train(make_spec(**shared), tmp_path / "first", num_devices=1)
    before, programs = len(traces), program.compile_program.cache_info().misses
    outcomes = run_sweep(make_spec(**shared, sweep=axes), tmp_path / "s", num_devices=1)
    assert all(outcome.error is None for outcome in outcomes)
    assert len(traces) == before
    assert program.compile_program.cache_info().misses == programs


def test_the_program_is_traced_once_for_each_shape(make_spec, tmp_path, traces):
    axes = {"model.hidden": [[7], [6]], "optimizer.learning_rate": [0.01, 0.1]}
    before = program.compile_program.cache_info().misses
    run_sweep(make_spec(sweep=axes, seeds={"num": 2}), tmp_path / "s", num_devices=1)
    assert program.compile_program.cache_info().misses == before + 2
    assert len(traces) > 0
    assert len(traces) % 2 == 0
    once = len(traces) // 2
    train(make_spec(model={"hidden": [4]}, seeds={"num": 2}), tmp_path / "third", num_devices=1)
    assert len(traces) == 3 * once


def test_a_failing_point_is_recorded_and_the_others_go_on(spec, tmp_path):
    run_sweep(spec, tmp_path / "s", num_devices=1)
    told = []
    with Store(tmp_path / "s" / "learning_rate=0.01").lock():
        outcomes = run_sweep(spec, tmp_path / "s", num_devices=1, tell=told.append)
    assert told == outcomes
    assert "is being trained by another process" in str(outcomes[0].error)
    assert outcomes[1].error is None
    first, second = listed(tmp_path / "s")["points"]
    assert first["status"] == "failed"
    assert first["error"] == outcomes[0].error
    assert second["status"] == "complete"
    assert [o.error for o in run_sweep(spec, tmp_path / "s", num_devices=1)] == [None, None]


def test_a_defect_in_one_point_is_recorded_with_its_traceback(spec, tmp_path, monkeypatch):
    def broken(point_spec, *args, **kwargs):
        if point_spec.optimizer.learning_rate == 0.01:
            raise ZeroDivisionError("a defect")
        return train(point_spec, *args, **kwargs)

    monkeypatch.setattr(sweep, "train", broken)
    first, second = run_sweep(spec, tmp_path / "s", num_devices=1)
    assert "Traceback" in str(first.error)
    assert "ZeroDivisionError: a defect" in str(first.error)
    assert second.error is None


def test_diverged_seeds_are_counted(make_spec, tmp_path):
    spec = make_spec(
        optimizer={"name": "sgd"}, objective={"loss": "squared_error"}, sweep={"optimizer.learning_rate": [1e-3, 1e30]}
    )
    assert [(o.error, o.num_diverged) for o in run_sweep(spec, tmp_path / "s", num_devices=1)] == [(None, 0), (None, 3)]


def test_a_sweep_that_was_stopped_goes_on(spec, tmp_path, monkeypatch):
    whole = run_sweep(spec, tmp_path / "whole", num_devices=1)

    def stop(point_spec, *args, **kwargs):
        if point_spec.optimizer.learning_rate == 0.1:
            raise KeyboardInterrupt
        return train(point_spec, *args, **kwargs)

    with monkeypatch.context() as stopped:
        stopped.setattr(sweep, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(spec, tmp_path / "s", num_devices=1)
    assert [point["status"] for point in listed(tmp_path / "s")["points"]] == ["complete", "pending"]
    run_sweep(spec, tmp_path / "s", num_devices=1)
    for outcome in whole:
        a, b = (open_run(tmp_path / name / outcome.point.folder).theta[:] for name in ("whole", "s"))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axes", [{"seeds.ids": [[5, 1], [7]]}, {"seeds.num": [1, 2]}])
def test_sweeps_over_seeds_are_trained_and_resumed(make_spec, tmp_path, axes):
    spec = make_spec(sweep=axes)
    for _ in range(2):
        assert [o.error for o in run_sweep(spec, tmp_path / "s", num_devices=1)] == [None, None]
    numbers = [run.seeds.tolist() for _, run in open_sweep(tmp_path / "s") if run]
    assert numbers == ([[5, 1], [7]] if "seeds.ids" in axes else [[0], [0, 1]])


@pytest.mark.parametrize("at", ["spec.toml", "sweep.json", "rename"])
def test_a_sweep_that_cannot_be_begun_leaves_nothing(spec, tmp_path, monkeypatch, at):
    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if at == "spec.toml":
        monkeypatch.setattr(sweep.Path, "write_text", disk_full)
    else:
        monkeypatch.setattr(store.os, {"sweep.json": "replace", "rename": "rename"}[at], disk_full)
    with pytest.raises(StoreError, match="No space left on device"):
        run_sweep(spec, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_sweep_is_refused_with_the_difference(spec, make_spec, tmp_path):
    run_sweep(spec, tmp_path / "s", num_devices=1)
    changed = make_spec(sweep={"optimizer.learning_rate": [0.01]}, train={"num_steps": 11})
    with pytest.raises(SpecError) as caught:
        run_sweep(changed, tmp_path / "s")
    assert "holds another sweep; choose another --out, or undo the change:" in str(caught.value)
    assert "train.num_steps: 12 -> 11" in str(caught.value)
    assert "sweep: {'optimizer.learning_rate': (0.01, 0.1)} -> {'optimizer.learning_rate': (0.01,)}" in str(
        caught.value
    )


def test_runs_and_foreign_folders_are_refused_and_untouched(spec, make_spec, tmp_path):
    train(make_spec(), tmp_path / "run", num_devices=1)
    with pytest.raises(StoreError, match="run holds a run: choose another --out"):
        run_sweep(spec, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="mine exists and is not a sweep"):
        run_sweep(spec, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="exists and is not a sweep"):
        run_sweep(spec, tmp_path / "mine" / "thesis.txt")


def test_a_point_that_cannot_be_trained_stops_the_sweep_before_anything_is_written(make_spec, tmp_path):
    spec = make_spec(sweep={"train.batch_size": [16, 500]})
    with pytest.raises(SpecError, match=r"train.batch_size = 500 is larger than the train set of iris"):
        run_sweep(spec, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_train_refuses_a_sweep(spec, tmp_path):
    with pytest.raises(SpecError, match=r"sweeps \['optimizer.learning_rate'\]"):
        train(spec, tmp_path / "run")


def test_what_is_no_sweep_is_not_opened(tmp_path):
    with pytest.raises(StoreError, match="is not the folder of a sweep"):
        open_sweep(tmp_path)
    (tmp_path / "spec.toml").write_text("")
    folders = ("..", "../run", "/run", "a/b", "")
    outside = [json.dumps({"points": [{"values": {}, "folder": folder}]}) for folder in folders]
    for content in ("", "[]", "{}", '{"points": []}', '{"points": [{"folder": 3}]}', *outside):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(StoreError, match=r"sweep.json is damaged: .*give the training command again"):
            open_sweep(tmp_path)


@pytest.fixture
def scheduler():
    from distributed import LocalCluster

    options: dict[str, Any] = {"dashboard_address": None}  # typed as text, documented as optional
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options) as cluster:
        assert isinstance(cluster, LocalCluster)
        yield cluster.scheduler_address


def test_dask_workers_give_the_same_numbers(spec, tmp_path, scheduler):
    here = run_sweep(spec, tmp_path / "here", num_devices=1)
    told = []
    there = run_sweep(spec, tmp_path / "there", num_devices=1, executor=sweep.on_dask(scheduler), tell=told.append)
    assert there == here
    assert sorted(told, key=str) == sorted(there, key=str)
    for outcome in here:
        a, b = (open_run(tmp_path / name / outcome.point.folder) for name in ("here", "there"))
        np.testing.assert_array_equal(a.theta[:], b.theta[:])
        for name, values in a.metrics.items():
            np.testing.assert_array_equal(values, b.metrics[name])


def test_a_dask_worker_that_fails_does_not_stop_the_others(spec, scheduler):
    points = specs.grid(spec)

    def work(point):
        if point == points[0]:
            raise MemoryError("killed")
        return sweep.Outcome(point, None, 0)

    outcomes = {o.point.folder: o.error for o in sweep.on_dask(scheduler)(work, points)}
    assert outcomes == {
        "learning_rate=0.01": "the worker failed: MemoryError('killed')",
        "learning_rate=0.1": None,
    }


def test_without_the_extra_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'wspace\[distributed\]'"):
        sweep.on_dask("tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_an_error_before_anything_is_written(address, monkeypatch):
    monkeypatch.setattr(sweep, "DASK_SECONDS", 0.5)
    with pytest.raises(PlatformError, match=f"no Dask scheduler answers at '{address}'"):
        sweep.on_dask(address)


def test_workers_with_another_current_folder_write_to_the_sweeps(spec, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def elsewhere(work, points):
        for point in points:
            with contextlib.chdir("elsewhere"):
                yield work(point)

    outcomes = run_sweep(spec, "s", num_devices=1, executor=elsewhere)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert all(run is not None and run.complete for _, run in open_sweep(tmp_path / "s"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_worker_that_sees_another_disk_has_failed(spec, tmp_path):
    outcomes = run_sweep(spec, tmp_path / "s", executor=lambda work, points: (Outcome(p, None, 0) for p in points))
    assert all("the worker does not write to" in str(outcome.error) for outcome in outcomes)
    assert [point["status"] for point in listed(tmp_path / "s")["points"]] == ["failed", "failed"]


def test_room_is_needed_for_all_points_together(spec, tmp_path, monkeypatch):
    one = store.num_bytes(specs.grid(spec)[0].spec, train_layout(spec))
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.5 * one))
    with pytest.raises(StoreError, match=r"needs about .* the disk has"):
        run_sweep(spec, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_what_is_complete_stays_listed_as_such_when_a_later_session_is_stopped(spec, tmp_path):
    run_sweep(spec, tmp_path / "s", num_devices=1)

    def stopped(work, points):
        yield work(next(iter(points)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec, tmp_path / "s", num_devices=1, executor=stopped)
    assert [point["status"] for point in listed(tmp_path / "s")["points"]] == ["complete", "complete"]


def train_layout(spec):
    point = specs.grid(spec)[0].spec
    return program.plan(point, load(point.data), "cpu").layout
