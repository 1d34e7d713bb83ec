"""Every spec and script of runs/ is carried out at toy size."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from analysis.report import write_report
from wspace import spec as specs
from wspace.train import train

RUNS = Path(__file__).parent.parent / "runs"
SPECS = sorted(RUNS.glob("*.toml"))
SCRIPTS = sorted(RUNS.glob("*.py"))
QUICKER = {  # runs' own reports are tested with the specs
    "children": ["--num-walks", "5", "--no-reports"],
    "curves": ["--curve-steps", "6", "--no-reports"],
    "functions": ["--no-reports"],
    "instability": ["--no-reports"],
    "outliers": ["--classes", "2", "3"],
    "patches": ["--num-patches", "400", "--num-fitted", "2"],
    "rebasin": ["--no-reports", "--only", "repair-2-layers", "children"],  # the others are the same code, larger
    "walks": ["--no-reports", "--num-drawn", "2", "--num-walks", "9"],
    "width": ["--widths", "4", "8"],
    "xor_minima": ["--no-reports", "--units", "2", "--penalties", "1e-2"],
}


@pytest.fixture
def idx_folder(tmp_path):
    """28 x 28 images of two clumsy classes, in the format of MNIST."""
    rng, folder = np.random.default_rng(0), tmp_path / "idx"
    folder.mkdir()
    labels = np.arange(300, dtype=np.uint8) % 10
    images = rng.integers(0, 100, (300, 28, 28), np.uint8) + 10 * labels[:, None, None]
    for name, array in (("t10k-images-idx3-ubyte.gz", images), ("t10k-labels-idx1-ubyte.gz", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return folder


def shrunk(spec, idx_folder):
    """The same experiment with 4 steps, 2 seeds, 3 checkpoints and at most 32 examples a batch."""
    replace = msgspec.structs.replace
    schedule = replace(spec.schedule, warmup_steps=min(spec.schedule.warmup_steps, 1))
    if schedule.boundaries:
        schedule = replace(schedule, boundaries=(2,))
    data = replace(spec.data, path=str(idx_folder)) if spec.data.name == "idx" else spec.data
    return replace(
        spec,
        data=data,
        schedule=schedule,
        train=replace(spec.train, num_steps=4, batch_size=min(spec.train.batch_size, 32)),
        checkpoints=replace(spec.checkpoints, num=3),
        seeds=replace(spec.seeds, num=2, ids=None),
        engine=replace(spec.engine, block_width=1),
        sweep={key: values[:1] for key, values in spec.sweep.items()},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small_reports")
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_trains_and_reports(path, idx_folder, tmp_path):
    spec = specs.load(path)
    assert spec.question.endswith("?")
    assert path.read_text().startswith("# ")
    assert spec.name == path.stem
    point = specs.grid(shrunk(spec, idx_folder))[0]
    run = train(point.spec, tmp_path / "run")
    assert run.complete
    assert run.converged().all()
    assert write_report(run).stat().st_size > 10_000
    findings = json.loads((run.path / "report" / "findings.json").read_text())
    assert len(findings) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_runs(path, tmp_path):
    assert "?\n" in path.read_text().split('"""')[1]
    command = [sys.executable, str(path), "--num-seeds", "3", "--num-steps", "6", "--out", str(tmp_path / "out")]
    command += QUICKER.get(path.stem, [])
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = [*(tmp_path / "out").rglob("report/index.html"), *(tmp_path / "out").rglob("comparison.json")]
    assert written
    assert all(str(tmp_path / "out") in str(path) and path.stat().st_size > 100 for path in written)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
