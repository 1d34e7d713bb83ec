import importlib.metadata
import json
import subprocess

import jax
import pytest

from wspace import program, provenance
from wspace.data import load
from wspace.run import open_run
from wspace.train import Silent, train


@pytest.fixture
def spec(make_spec):
    return make_spec(engine={"precision": "high", "block_width": 2})


@pytest.fixture
def record(spec):
    data = load(spec.data)
    return provenance.new_provenance(data, program.plan(spec, data, "cpu"))


def test_a_run_records_where_its_numbers_come_from(record, spec):
    data = load(spec.data)
    assert record["schema"] == 1
    assert record["wspace"] == importlib.metadata.version("wspace")
    assert record["data_hash"] == data.hash
    assert record["block_width"] == 2
    assert record["dtype"] == "float32"
    assert record["precision"] == "high"
    assert record["loss"] == "cross_entropy"
    assert record["task"] == "classification"
    assert record["num_params"] == (4 + 1) * 5 + (5 + 1) * 3
    shapes = {"num_features": 4, "input_shape": [4], "num_outputs": 3}
    assert record["data"] == {"name": "iris", "num_train": 120, "num_test": 30, **shapes}
    assert record["created"].endswith("+00:00")


def test_a_session_records_versions_devices_and_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/wspace", "train", "a b.toml"])
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    monkeypatch.setenv("SECRET_TOKEN", "never recorded")
    session = provenance.new_session(jax.devices())
    assert session["versions"]["jaxlib"] == importlib.metadata.version("jaxlib")
    assert set(session["versions"]) == {"python", *provenance.PACKAGES}
    assert session["platform"] == "cpu"
    assert len(session["devices"]) == 2
    assert session["command"] == "wspace train 'a b.toml'"
    assert "device_count=2" in session["flags"]["XLA_FLAGS"]
    assert session["flags"]["JAX_ENABLE_X64"] == "0"
    assert "never recorded" not in json.dumps(session)


def test_every_session_that_trains_is_appended(spec, tmp_path):
    class Stop(Silent):
        def checkpoint(self, step, train_loss):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path / "run", monitor=Stop())
    first = open_run(tmp_path / "run").provenance
    assert len(first["sessions"]) == 1
    second = train(spec, tmp_path / "run").provenance
    assert second["sessions"][:1] == first["sessions"]
    assert len(second["sessions"]) == 2
    assert {**second, "sessions": []} == {**first, "sessions": []}
    assert train(spec, tmp_path / "run").provenance == second  # nothing was left to train


def test_the_file_is_strict_json(spec, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    run = train(spec, tmp_path / "run")
    text = (tmp_path / "run" / "provenance.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == run.provenance


@pytest.mark.parametrize(("changes", "expected"), [("", "abc123"), (" M x.py", "abc123+")])
def test_the_commit_says_whether_the_code_was_changed(monkeypatch, changes, expected, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "wspace" / "provenance.py"))

    def git(command, **options):
        out = "abc123\n" if "rev-parse" in command else changes
        return subprocess.CompletedProcess(command, 0, stdout=out)

    monkeypatch.setattr(provenance.subprocess, "run", git)
    assert provenance._commit() == expected


def test_installed_code_and_a_machine_without_git_have_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "wspace" / "provenance.py"))
    assert provenance._commit() is None
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance._commit() is None
