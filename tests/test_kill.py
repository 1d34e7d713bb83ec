"""kill -9 at any moment: the same command goes on, and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from wspace import open_run
from wspace import spec as specs
from wspace.store import Store, is_run
from wspace.train import train

# Runs `wspace train` in this interpreter and dies, as by kill -9, at the n-th time a write point is passed.
DRIVER = """
import os, sys
from wspace.cores import use_cores
use_cores(2)
from wspace import train
from wspace.cli import main
from wspace.store import Store
import wspace.store, zarr
train.COMMIT_CHECKPOINTS = 1
point, left = sys.argv[1], [int(sys.argv[2])]

def die_after(owner, name, when=lambda *args: True):
    original = getattr(owner, name)
    def dying(*args, **kwargs):
        result = original(*args, **kwargs)
        if when(*args):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
        return result
    setattr(owner, name, dying)

written = lambda array, *_: array.name.rsplit("/", 1)[-1]
if point == "folder":
    die_after(zarr, "create_group")
elif point == "state":
    die_after(Store, "_save_state")
elif point == "commit":
    die_after(Store, "commit")
else:
    die_after(zarr.Array, "__setitem__", lambda array, *_: written(array) == point)
sys.exit(main(["train", *sys.argv[3:]]))
"""

# The command line, with a pause after each commit, so that it is certainly still running when it is ended.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what it runs in the background
from wspace.cores import use_cores
use_cores(2)
from wspace.cli import main
from wspace.store import Store
commit = Store.commit
Store.commit = lambda *args: (commit(*args), time.sleep(0.5))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def spec(make_spec):
    return make_spec(checkpoints={"num": 5})


@pytest.fixture
def kill(tmp_path, spec):
    """Train in a process that dies at the n-th time a write point is passed."""
    spec_file = tmp_path / "toy.toml"
    spec_file.write_text(specs.to_toml(spec))

    def run(point, after, out):
        command = [sys.executable, "-c", DRIVER, point, str(after), str(spec_file), "--out", str(out)]
        env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 9, f"{point} {after}: {done.stderr}"

    return run


def content(run):
    assert run.complete
    return {"theta": np.asarray(run.theta[:]), "diverged_at": run.diverged_at, **dict(run.metrics)}


def assert_same(run, whole):
    expected = content(whole)
    for name, values in content(run).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


MOMENTS = [("folder", 1), ("theta", 1), ("theta", 4), ("grad_norm", 3), ("diverged_at", 2), ("diverged_at", 9)]
MOMENTS += [("state", 1), ("state", 5), ("done", 3), ("done", 10), ("commit", 6)]


@pytest.mark.parametrize(("point", "after"), MOMENTS)
def test_killed_at_every_kind_of_write(spec, kill, tmp_path, point, after):
    folder = tmp_path / "runs"
    kill(point, after, folder / "out")
    run = train(spec, folder / "out")
    assert_same(run, train(spec, tmp_path / "whole"))
    assert [path.name for path in (run.path / "state").glob("*.npz")] == []
    assert list(folder.iterdir()) == [run.path]  # nothing half made is left beside it


@pytest.mark.slow
def test_killed_again_and_again(spec, kill, tmp_path):
    for point in ("theta", "state", "done", "done"):
        kill(point, 2, tmp_path / "out")
    assert_same(train(spec, tmp_path / "out"), train(spec, tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_running_command_is_ended_from_outside(tmp_path, make_spec, how):
    spec = make_spec(train={"num_steps": 8000}, checkpoints={"num": 401}, seeds={"num": 6})
    path, out = tmp_path / "long.toml", tmp_path / "out"
    path.write_text(specs.to_toml(spec))
    arguments = ["train", str(path), "--out", str(out)]
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    slow = [sys.executable, "-c", SLOW, *arguments]
    process = subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if is_run(out) and np.asarray(Store(out).done[:])[:, 1:].any():  # past the init
            break
        time.sleep(0.02)
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), errors
    if how == signal.SIGINT:
        assert "interrupted" in errors
        assert "resumes" in errors
    partial = open_run(out)
    assert not partial.complete
    done, theta = partial.done, np.asarray(partial.theta[:])
    assert np.isfinite(theta[done]).all()
    command = [sys.executable, "-m", "wspace.cli", *arguments]
    resumed = subprocess.run(command, capture_output=True, text=True, env=env)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at" in resumed.stdout
    whole = train(spec, tmp_path / "whole")
    assert_same(open_run(out), whole)
    np.testing.assert_array_equal(theta[done], np.asarray(whole.theta[:])[done])
    assert len(json.loads((out / "provenance.json").read_text())["sessions"]) == 2
