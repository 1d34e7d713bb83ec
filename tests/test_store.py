import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import zarr

from wspace import objective, program, store
from wspace import spec as specs
from wspace.data import load
from wspace.errors import SpecError, StoreError
from wspace.provenance import new_provenance
from wspace.run import open_run
from wspace.store import Store
from wspace.train import train


@pytest.fixture
def spec(make_spec):
    """Three seeds in blocks of two, checkpoints at 0, 4, 8, 12."""
    return make_spec()


@pytest.fixture
def make_store(spec, tmp_path):
    def make(path=tmp_path / "run", spec=spec):
        data = load(spec.data)
        plan = program.plan(spec, data, "cpu")
        return store.create(path, spec, new_provenance(data, plan), plan.layout, objective.METRICS[data.task])

    return make


def commit(run: Store, block: int, start: int, stop: int):
    """Store checkpoints start .. stop-1 of a block, each full of its own position."""
    rows = run.rows(block)
    num, size = rows.stop - rows.start, run.theta.shape[2]
    values = np.arange(start, stop, dtype=np.float32)
    theta = np.broadcast_to(values[:, None], (num, stop - start, size))
    metrics = {name: np.broadcast_to(values, (num, stop - start)) for name in objective.METRICS["classification"]}
    run.commit(block, slice(start, stop), theta, metrics, np.full(num, -1), [np.arange(3.0), np.array(stop)])


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def metadata(path: Path, array: str) -> dict:
    return json.loads((path / "run.zarr" / array / "zarr.json").read_text())


# --- the layout on disk -------------------------------------------------------------------------------------------


def test_a_new_run_has_the_documented_parts(make_store):
    path = make_store().path
    assert sorted(p.name for p in path.iterdir()) == ["provenance.json", "run.zarr", "spec.toml", "state"]
    arrays = sorted(p.name for p in (path / "run.zarr").iterdir())
    assert arrays == ["checkpoint_step", "diverged_at", "done", "metrics", "seed", "theta", "zarr.json"]
    metrics = {p.name for p in (path / "run.zarr" / "metrics").iterdir()} - {"zarr.json"}
    assert metrics == set(objective.METRICS["classification"])


@pytest.mark.parametrize(
    ("array", "dims", "shape", "chunk", "dtype", "fill"),
    [
        ("theta", ["seed", "checkpoint", "param"], [3, 4, 43], [2, 1, 43], "float32", "NaN"),
        ("seed", ["seed"], [3], [3], "int64", 0),
        ("checkpoint_step", ["checkpoint"], [4], [4], "int64", 0),
        ("diverged_at", ["seed"], [3], [2], "int64", -1),
        ("metrics/train_loss", ["seed", "checkpoint"], [3, 4], [2, 4], "float32", "NaN"),
        ("metrics/grad_norm", ["seed", "checkpoint"], [3, 4], [2, 4], "float32", "NaN"),
        ("done", ["block", "checkpoint"], [2, 4], [1, 4], "bool", False),
    ],
)
def test_arrays_have_the_documented_names_shapes_and_chunks(make_store, array, dims, shape, chunk, dtype, fill):
    found = metadata(make_store().path, array)
    assert found["zarr_format"] == 3
    assert found["dimension_names"] == dims
    assert found["shape"] == shape
    assert found["chunk_grid"]["configuration"]["chunk_shape"] == chunk
    assert found["data_type"] == dtype
    assert found["fill_value"] == fill
    assert [codec["name"] for codec in found["codecs"]] == ["bytes"], "neither sharded nor compressed"


def test_groups_are_not_consolidated(make_store):
    path = make_store().path
    for group in ("", "metrics"):
        found = metadata(path, group)
        assert found["node_type"] == "group"
        assert found.get("consolidated_metadata") is None
    assert metadata(path, "")["attributes"] == {"schema": 1, "spec": (path / "spec.toml").read_text()}


def test_leaves_of_theta_are_described(make_store):
    assert metadata(make_store().path, "theta")["attributes"] == {
        "leaf_names": ["0.bias", "0.weight", "1.bias", "1.weight"],
        "leaf_shapes": [[5], [4, 5], [3], [5, 3]],
        "leaf_offsets": [0, 5, 25, 28],
    }


def test_seeds_and_steps_are_stored(make_store, make_spec):
    run = make_store(spec=make_spec(seeds={"ids": [9, 2**32 - 1, 0], "num": 3}))
    np.testing.assert_array_equal(run.array("seed")[:], [9, 2**32 - 1, 0])
    np.testing.assert_array_equal(run.array("checkpoint_step")[:], [0, 4, 8, 12])


def test_a_checkpoint_of_a_block_is_one_file(make_store):
    run = make_store()
    commit(run, 1, 0, 2)
    chunks = {str(p.relative_to(run.path / "run.zarr/theta/c")) for p in (run.path / "run.zarr/theta/c").rglob("0")}
    assert {c for c in chunks if c.count("/") == 2} == {"1/0/0", "1/1/0"}


# --- create -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["spec.toml", "run.zarr", "rename"])
def test_a_run_that_cannot_be_made_leaves_nothing(make_store, tmp_path, monkeypatch, at):
    if at == "spec.toml":
        monkeypatch.setattr(Path, "write_text", disk_full)
    elif at == "run.zarr":
        monkeypatch.setattr(zarr, "create_group", disk_full)
    else:
        monkeypatch.setattr(store.os, "rename", disk_full)
    with pytest.raises(StoreError, match="No space left on device"):
        make_store(tmp_path / "deep" / "run")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_interrupt_while_a_run_is_made_leaves_nothing(make_store, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(zarr, "create_group", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_store(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_used(make_store, tmp_path):
    (tmp_path / "run").mkdir()
    assert store.is_run(make_store(tmp_path / "run").path)


def test_folders_have_the_usual_rights(make_store, tmp_path):
    (tmp_path / "other").mkdir()
    assert make_store().path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("what", ["file", "folder", "half a run"])
def test_what_is_not_a_run_is_refused_and_untouched(spec, tmp_path, what):
    path = tmp_path / "run"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / ("spec.toml" if what == "half a run" else "thesis.txt")).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=r"run exists and is not a run: choose another --out, or remove it"):
        train(spec, path)
    assert contents(tmp_path) == before


def test_a_file_in_the_way_is_refused(spec, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be made: .*file is not a writable folder; choose another --out"):
        train(spec, tmp_path / "file" / "run")


def test_a_folder_without_write_permission_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match="is not a writable folder; choose another --out"):
        train(spec, tmp_path / "run")


def test_names_that_the_system_refuses_are_refused(spec, tmp_path):
    with pytest.raises(StoreError, match="File name too long"):
        train(spec, tmp_path / ("x" * 300))


def test_a_run_that_does_not_fit_the_disk_is_refused_before_training(spec, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"needs about 3.6 kB, the disk has 2.0 kB free: store fewer checkpoints"):
        train(spec, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_disk_space_is_that_of_theta_and_the_training_state(spec):
    layout = program.plan(spec, load(spec.data), "cpu").layout
    assert store.num_bytes(spec, layout) == 4 * 43 * 3 * (4 + 3)


# --- open ---------------------------------------------------------------------------------------------------------


def test_what_was_created_is_what_is_opened(make_store, spec):
    run = Store(make_store().path)
    assert run.spec == spec
    assert (run.width, run.num_blocks) == (2, 2)
    assert [run.rows(block) for block in range(2)] == [slice(0, 2), slice(2, 3)]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"there is no run folder '.*nothing'"):
        open_run(tmp_path / "nothing")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"is not a run folder: spec.toml, provenance.json and run.zarr are expected"):
        open_run(tmp_path)


@pytest.mark.parametrize("schema", [0, 2, "1"])
def test_another_format_is_refused_whatever_its_spec_holds(make_store, schema):
    path = make_store().path
    record = json.loads((path / "provenance.json").read_text())
    (path / "provenance.json").write_text(json.dumps(record | {"schema": schema}))
    (path / "spec.toml").write_text("field_of_another_version = 1")
    with pytest.raises(StoreError, match=rf"has run format {schema}, this version of wspace reads format 1"):
        open_run(path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("provenance.json", "", "run is damaged: JSONDecodeError"),
        ("provenance.json", "[]", "run is damaged: TypeError"),
        ("provenance.json", "{}", "run is damaged: KeyError: 'schema'"),
        ("spec.toml", "[train", "run is damaged: TOMLDecodeError"),
        ("spec.toml", "[train]\nnum_stepz = 3", "run is damaged: SpecError: unknown key 'num_stepz'"),
        ("run.zarr/zarr.json", "", "run.zarr is damaged"),
        ("run.zarr/theta/zarr.json", "{", "run.zarr is damaged"),
        ("run.zarr/done/zarr.json", None, "run.zarr is damaged"),
    ],
)
def test_damaged_files_are_named(make_store, file, content, message):
    path = make_store().path
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_text(content)
    with pytest.raises(StoreError, match=message):
        open_run(path)


@pytest.mark.parametrize("key", ["block_width", "data", "data_hash", "loss", "num_params", "sessions", "task"])
def test_a_provenance_without_what_reading_needs_is_damaged(make_store, key):
    path = make_store().path
    record = json.loads((path / "provenance.json").read_text())
    record.pop(key)
    (path / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=rf"is damaged: ValueError: provenance.json lacks \['{key}'\]; restore"):
        open_run(path)


@pytest.mark.parametrize("width", [1, "x", 0])
def test_a_block_width_that_does_not_fit_is_damage(make_store, width):
    path = make_store().path
    record = json.loads((path / "provenance.json").read_text())
    (path / "provenance.json").write_text(json.dumps(record | {"block_width": width}))
    with pytest.raises(StoreError, match=r"run.zarr is damaged"):
        open_run(path)


@pytest.mark.parametrize("name", ["theta", "seed", "checkpoint_step", "diverged_at", "metrics", "metrics/test_loss"])
def test_arrays_that_are_gone_are_damage(make_store, name):
    path = make_store().path
    shutil.rmtree(path / "run.zarr" / name)
    with pytest.raises(StoreError, match=rf"run.zarr is damaged: KeyError: '{name}"):
        open_run(path)


@pytest.mark.parametrize("edit", [("0.01", "0.5"), ("num_steps = 12", "num_steps = 13"), ("num = 3", "num = 4")])
def test_an_edited_spec_is_refused_with_the_difference(make_store, edit):
    path = make_store().path
    (path / "spec.toml").write_text((path / "spec.toml").read_text().replace(*edit))
    with pytest.raises(
        StoreError, match=r"spec.toml was edited after the run was made; undo it:\n  \w+.\w+: \S+ -> \S+$"
    ):
        open_run(path)


def test_a_small_array_of_another_size_is_damage_when_it_is_read(make_store):
    run = make_store()
    commit(run, 0, 0, 4)
    (run.path / "run.zarr/done/c/0/0").write_bytes(b"a")
    with pytest.raises(StoreError, match=r"run.zarr is damaged: ValueError"):
        _ = open_run(run.path).complete


@pytest.mark.parametrize("chunk", ["theta/c/0/1/0", "metrics/test_loss/c/1/0"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_lost_chunks_are_found_before_a_run_is_resumed_or_reported(make_store, spec, chunk, how):
    run = make_store()
    for block in range(2):
        commit(run, block, 0, 3)
    run.check()
    file = run.path / "run.zarr" / chunk
    file.unlink() if how == "missing" else file.write_bytes(b"abc")
    message = rf"is damaged: run.zarr/{chunk} {'is missing' if how == 'missing' else 'has 3 bytes'}.*restore the folder"
    with pytest.raises(StoreError, match=message):
        open_run(run.path).check()
    with pytest.raises(StoreError, match=message):
        train(spec, run.path)


def test_blocks_that_diverged_have_no_chunks_to_lose(make_spec, tmp_path):
    run = train(make_spec(optimizer={"learning_rate": 1e30}), tmp_path / "run")
    assert np.all(run.diverged_at >= 0)
    run.check()


def test_two_processes_that_make_one_run_do_not_mix(make_store, tmp_path, monkeypatch):
    rename = os.rename

    def late(source, target):
        shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(store.os, "rename", late)
    with pytest.raises(StoreError, match="made by another process at the same time; give the same command again"):
        make_store()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    Store(tmp_path / "run").check()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 kB"), (999_900, "999.9 kB"), (3.1e6, "3.1 MB"), (2e12, "2000.0 GB")]
)
def test_sizes_are_written_for_people(size, text):
    assert store.size_text(size) == text


def test_a_changed_spec_is_refused_with_the_difference_and_nothing_is_touched(make_store, make_spec):
    path = make_store().path
    before = contents(path)
    with pytest.raises(SpecError) as caught:
        train(make_spec(optimizer={"learning_rate": 0.5}, seeds={"num": 4}), path)
    assert str(caught.value).endswith(
        "holds a run of another spec; choose another --out, or undo the change:\n"
        "  optimizer.learning_rate: 0.01 -> 0.5\n"
        "  seeds.num: 3 -> 4"
    )
    assert contents(path) == before


def test_changed_data_are_refused(make_store, spec):
    path = make_store().path
    record = json.loads((path / "provenance.json").read_text())
    (path / "provenance.json").write_text(json.dumps(record | {"data_hash": "0" * 64}))
    with pytest.raises(StoreError, match=r"was trained on data of hash 000000000000, the data now has [0-9a-f]{12}:"):
        train(spec, path)


# --- commit -------------------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_read(make_store):
    run = make_store()
    commit(run, 0, 0, 3)
    commit(run, 1, 0, 4)
    again = open_run(run.path)
    np.testing.assert_array_equal(again.done, [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(again.theta[:2, :, 7], [[0, 1, 2, np.nan]] * 2)
    np.testing.assert_array_equal(again.metrics["train_loss"], [[0, 1, 2, np.nan]] * 2 + [[0, 1, 2, 3]])
    assert not again.complete


def test_a_commit_writes_theta_and_metrics_then_the_state_then_done(make_store, monkeypatch):
    run, order = make_store(), []
    setitem, replace = zarr.Array.__setitem__, os.replace

    def record_array(array, selection, value):
        order.append(array.path)
        setitem(array, selection, value)

    def record_file(source, target):
        if str(target).endswith(".npz"):
            order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(zarr.Array, "__setitem__", record_array)
    monkeypatch.setattr(os, "replace", record_file)
    commit(run, 0, 0, 2)
    assert order[0] == "theta"
    assert set(order[1:-3]) == {f"metrics/{name}" for name in objective.METRICS["classification"]}
    assert order[-3:] == ["diverged_at", "block-0.npz", "done"]


def test_a_finished_block_keeps_no_state(make_store):
    run = make_store()
    commit(run, 0, 0, 2)
    assert [p.name for p in (run.path / "state").iterdir()] == ["block-0.npz"]
    commit(run, 0, 2, 4)
    assert list((run.path / "state").iterdir()) == []


def test_blocks_do_not_touch_each_other(make_store):
    run = make_store()
    commit(run, 0, 0, 4)
    before = {k: v for k, v in contents(run.path / "run.zarr").items() if "/c/0" in k}
    commit(run, 1, 0, 4)
    after = contents(run.path / "run.zarr")
    assert {k: after[k] for k in before} == before
    np.testing.assert_array_equal(run.theta[0, :, 0], [0, 1, 2, 3])


@pytest.mark.parametrize("at", ["theta", "metrics", "diverged_at", "state", "done"])
def test_a_full_disk_loses_nothing_that_was_committed(spec, tmp_path, monkeypatch, at):
    """Whatever write fails: an error that says what to do, earlier checkpoints readable, and a rerun finishes."""
    monkeypatch.setattr("wspace.train.COMMIT_CHECKPOINTS", 1)
    whole = train(spec, tmp_path / "whole")
    setitem, savez, commits = zarr.Array.__setitem__, np.savez, []

    def fail_array(array, selection, value):
        commits.extend([1] if array.path == "theta" else [])
        if array.path.startswith(at) and len(commits) == 3:
            disk_full()
        setitem(array, selection, value)

    def fail_state(*args, **kwargs):
        if at == "state" and len(commits) == 3:
            disk_full()
        savez(*args, **kwargs)

    with monkeypatch.context() as full:
        full.setattr(zarr.Array, "__setitem__", fail_array)
        full.setattr(np, "savez", fail_state)
        with pytest.raises(StoreError, match=r"cannot write to .*No space left on device; what was committed is kept"):
            train(spec, tmp_path / "run", num_devices=1)
    part = open_run(tmp_path / "run")
    np.testing.assert_array_equal(part.done, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(part.theta[:2, :2], whole.theta[:2, :2])
    again = train(spec, tmp_path / "run", num_devices=1)
    np.testing.assert_array_equal(again.theta[:], whole.theta[:])
    for name, values in whole.metrics.items():
        np.testing.assert_array_equal(again.metrics[name], values)
    assert again.complete
    assert not list((tmp_path / "run" / "state").glob("*.npz"))
    assert not list((tmp_path / "run").rglob(".*.partial"))


def test_writing_a_file_that_fails_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    store.replace_file(path, b"old")
    with monkeypatch.context() as full:
        full.setattr(os, "replace", disk_full)
        with pytest.raises(OSError, match="No space left"):
            store.replace_file(path, b"new")
    assert contents(tmp_path) == {"file.json": b"old"}
    store.replace_file(path, b"new")
    assert contents(tmp_path) == {"file.json": b"new"}


# --- folders that appear whole ------------------------------------------------------------------------------------


def test_what_a_killed_process_left_half_made_is_removed(tmp_path):
    (tmp_path / ".new.partial" / "deep").mkdir(parents=True)
    (tmp_path / ".new.partial" / "file").write_text("half")
    with store.new_folder(tmp_path / "new") as building:
        assert list(building.iterdir()) == []
        (building / "whole").touch()
    assert contents(tmp_path) == {"new/whole": b""}


def test_a_folder_that_fails_to_be_made_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.new_folder(tmp_path / "new") as building:
        fail(building)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_make_the_same_folder(tmp_path):
    with (
        store.new_folder(tmp_path / "new") as building,
        pytest.raises(StoreError, match="made by another process"),
        store.new_folder(tmp_path / "new"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert not building.exists()


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    with store.new_folder(tmp_path / "link") as building:
        (building / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "scratch") == {"file": b""}


# --- resume -------------------------------------------------------------------------------------------------------

LIKE = [jax.ShapeDtypeStruct((3,), np.float64), jax.ShapeDtypeStruct((), np.int64)]  # the state that `commit` stores


def test_a_block_that_was_not_begun_starts_afresh(make_store):
    assert make_store().resume(0, LIKE) is None


def test_a_block_goes_on_from_its_last_commit(make_store):
    run = make_store()
    commit(run, 0, 0, 2)
    checkpoint, leaves = Store(run.path, "r+").resume(0, LIKE) or (None, [])
    assert checkpoint == 1
    np.testing.assert_array_equal(leaves[0], np.arange(3.0))
    np.testing.assert_array_equal(leaves[1], 2)


def test_a_state_newer_than_done_completes_done(make_store):
    run = make_store()
    commit(run, 0, 0, 1)
    commit(run, 0, 1, 3)
    run.done[0, 1:] = False  # killed between the state and done
    assert (run.resume(0, LIKE) or (None,))[0] == 2
    np.testing.assert_array_equal(run.done[0], [1, 1, 1, 0])


@pytest.mark.parametrize("state", ["older", "missing", "empty", "truncated", "text", "pickled"])
def test_a_state_that_cannot_be_used_starts_the_block_afresh(make_store, state):
    run = make_store()
    commit(run, 0, 0, 1)
    path = run.path / "state" / "block-0.npz"
    old = path.read_bytes()
    commit(run, 0, 1, 3)
    commit(run, 1, 0, 2)
    if state == "missing":
        path.unlink()
    elif state == "pickled":
        np.savez(path, checkpoint=2, leaf0=np.array([{"code": 1}], dtype=object))
    else:
        whole = path.read_bytes()
        path.write_bytes({"older": old, "empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello"}[state])
    assert run.resume(0, LIKE) is None
    np.testing.assert_array_equal(run.done[:], [[0, 0, 0, 0], [1, 1, 0, 0]])


def test_a_second_writer_is_refused_until_the_first_lets_go(make_store, spec):
    run = make_store()
    with run.lock(), pytest.raises(StoreError, match="is being trained by another process; wait for it or stop it"):
        train(spec, run.path)
    assert train(spec, run.path).complete


def test_what_a_killed_writer_left_half_written_is_cleared(make_store):
    run = make_store()
    (run.path / "state" / ".block-0.npz.123.partial").write_bytes(b"half")
    with run.lock():
        assert [p.name for p in (run.path / "state").iterdir()] == ["lock"]


def test_reading_needs_no_lock_and_writes_nothing(make_store):
    run = make_store()
    commit(run, 0, 0, 2)
    before = contents(run.path)
    with run.lock():
        assert open_run(run.path).done.sum() == 4
    after = contents(run.path)
    after.pop("state/lock")
    assert after == before


def test_a_reader_cannot_write(make_store):
    reader = Store(make_store().path)
    with pytest.raises(ValueError, match="read-only"):
        reader.theta[0, 0] = 1.0


def test_metrics_of_many_checkpoints_are_chunked(make_store, make_spec):
    spec = make_spec(train={"num_steps": 2000}, checkpoints={"num": 1001})
    assert len(specs.checkpoint_steps(spec)) == 1001
    path = make_store(spec=spec).path
    assert metadata(path, "metrics/test_loss")["chunk_grid"]["configuration"]["chunk_shape"] == [2, 256]
