"""The command line as a stranger uses it: exit codes, overrides, refusals that leave nothing, failures that are told."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wspace import cli, doctor, open_run, sweep
from wspace import spec as specs
from wspace import train as training
from wspace.cli import main
from wspace.doctor import Check
from wspace.store import Store

pytestmark = pytest.mark.usefixtures("small_reports")

RATES = "optimizer.learning_rate=[0.01, 0.02]"
SOME_DIVERGE = ["--optimizer.name", "sgd", "--optimizer.learning-rate", "0.3", "--objective.loss", "squared_error"]
SOME_DIVERGE += ["--seeds.ids", "0", "1", "3", "--train.num-steps", "40"]  # seed 1 does


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, empty but for the spec toy.toml that the tests train."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(here, make_spec):
    Path("toy.toml").write_text(specs.to_toml(make_spec()))
    return "toy.toml"


@pytest.fixture
def read_spec(monkeypatch):
    """The spec that a command line gives, without training it."""

    def read(*arguments):
        got = []
        monkeypatch.setattr(cli, "_dry_run", lambda spec, *_: got.append(spec) or cli.OK)
        assert main(["train", *arguments, "--dry-run"]) == 0
        return got[0]

    return read


def code(*arguments) -> int:
    """Exit code of a command, whether it is returned or, by the parsers, raised."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def one_line(text: str) -> str:
    """Text without frames and line breaks, as some messages are wrapped in boxes."""
    return " ".join(re.sub(r"[│╭╮╰╯─|+]|-{4,}", " ", text).split())


@contextlib.contextmanager
def nothing_changes(path: Path):
    before = contents(path), sorted(path.rglob("*"))
    yield
    assert (contents(path), sorted(path.rglob("*"))) == before


# --- what works ---------------------------------------------------------------------------------------------------


def test_train_goes_to_results_and_the_same_command_has_nothing_left_to_do(toy, here, capsys):
    assert main(["train", toy]) == 0
    assert "3 of 3 seeds trained to step 12 in results/toy; median test loss " in capsys.readouterr().out
    assert open_run(here / "results" / "toy").complete
    first = contents(here / "results" / "toy" / "run.zarr")
    assert main(["train", toy]) == 0
    assert "toy: complete, nothing to train" in capsys.readouterr().out
    assert contents(here / "results" / "toy" / "run.zarr") == first


def test_run_trains_and_reports(toy, here, capsys):
    assert main(["run", toy, "--name", "other"]) == 0
    assert "report: results/other/report/index.html" in capsys.readouterr().out
    assert (here / "results/other/report/index.html").is_file()
    assert json.loads((here / "results/other/report/findings.json").read_text(encoding="utf-8"))


def test_report_is_written_again(toy, here, capsys):
    assert main(["train", toy, "--out", "run"]) == 0
    assert not (here / "run/report").exists()
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out.endswith("report: run/report/index.html\n")
    assert not (here / "run/report/surface.html").exists()


@pytest.mark.parametrize("command", ["run", "report"])
def test_an_interactive_report_without_plotly_is_refused_before_any_work(toy, here, capsys, monkeypatch, command):
    if command == "report":
        assert main(["train", toy, "--out", "run"]) == 0
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert main([command, {"run": toy, "report": "run"}[command], "--interactive"]) == 2
    assert "pip install 'wspace[interactive]'" in capsys.readouterr().err
    assert not (here / "results").exists()
    assert not (here / "run" / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "section", "field", "value"),
    [
        (["--optimizer.learning-rate", "0.01"], "optimizer", "learning_rate", 0.01),
        (["--optimizer.learning_rate=1"], "optimizer", "learning_rate", 1.0),
        (["--optimizer.name", "adamw"], "optimizer", "name", "adamw"),
        (["--seeds.num", "5"], "seeds", "num", 5),
        (["--seeds.ids", "3", "5"], "seeds", "ids", (3, 5)),
        (["--model.hidden", "4", "4"], "model", "hidden", (4, 4)),
        (["--model.hidden"], "model", "hidden", ()),
        (["--model.bias", "False"], "model", "bias", False),
        (["--data.standardize", "False"], "data", "standardize", False),
        (["--data.name", "xor", "--data.noise", "0.5"], "data", "noise", 0.5),
        (["--data.name", "moons", "--data.num-examples", "50"], "data", "num_examples", 50),
        (["--data.name", "teacher", "--data.teacher-hidden", "3", "2"], "data", "teacher_hidden", (3, 2)),
        (["--checkpoints.schedule", "list", "--checkpoints.steps", "3", "7"], "checkpoints", "steps", (3, 7)),
        (["--engine.block-width", "4"], "engine", "block_width", 4),
    ],
)
def test_any_kind_of_field_is_overridden(toy, read_spec, arguments, section, field, value):
    spec = read_spec(toy, *arguments)
    assert getattr(getattr(spec, section), field) == value


def test_every_field_that_the_command_line_can_override_is_listed(toy, capsys):
    assert code("train", toy, "--spec-help") == 0
    text = one_line(capsys.readouterr().out)
    for field in (f for f in specs._flatten(specs.to_dict(specs.Spec())) if f != "sweep"):
        assert f"--{field.replace('_', '-')} " in text
    assert "Units of each hidden layer" in text
    assert "(default: 5)" in text


def test_name_and_question_are_overridden(toy, read_spec):
    spec = read_spec(toy, "--name", "x-1", "--question", "[red]why?[/]")
    assert (spec.name, spec.question) == ("x-1", "[red]why?[/]")


@pytest.mark.parametrize(
    ("in_file", "arguments", "expected"),
    [
        ({"num": 3}, ["--seeds.ids", "7", "5"], (7, 5)),
        ({"ids": [7, 5]}, ["--seeds.num", "3"], (0, 1, 2)),
        ({"ids": [7, 5]}, ["--seeds.root", "1"], (7, 5)),
        ({"num": 3}, ["--seeds.num", "None"], tuple(range(16))),
        ({"num": 3}, ["--seeds.num", "2", "--seeds.ids", "8", "9"], (8, 9)),
    ],
)
def test_seeds_of_the_command_line_replace_those_of_the_file(here, read_spec, in_file, arguments, expected):
    lines = "\n".join(f"{key} = {value}" for key, value in in_file.items())
    Path("seeds.toml").write_text(f"[seeds]\n{lines}\n")
    assert specs.seed_ids(read_spec("seeds.toml", *arguments)) == expected


def test_axes_are_added_to_the_sweep_of_the_file(here, read_spec):
    Path("swept.toml").write_text('[sweep]\n"optimizer.learning_rate" = [0.1]\n')
    spec = read_spec("swept.toml", "--sweep", "model.hidden=[[], [8]]", "--sweep", "optimizer.learning-rate=[0.2]")
    assert spec.sweep == {"optimizer.learning_rate": (0.2,), "model.hidden": ((), (8,))}


def test_a_spec_that_begins_with_a_byte_order_mark_is_read(here, read_spec):
    Path("bom.toml").write_bytes(b'\xef\xbb\xbf[data]\nname = "iris"\n')
    assert read_spec("bom.toml").data.name == "iris"


# --- --dry-run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(toy, here, capsys, command):
    with nothing_changes(here):
        assert main([command, toy, "--dry-run", "--out", "new"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train new",
        "  3 seeds x 12 steps, 43 params each, MLP(sizes=(4, 5, 3), activation='relu', bias=True, init_kind='he')",
        "  iris: 120 train, 30 test examples",
        "  2 blocks of 2 seeds on 2 x cpu",
        "  4 checkpoints, 3.6 kB",
        "dry run: nothing was written; 1 run would be",
    ]


def test_a_dry_run_of_a_sweep_lists_its_points(toy, here, capsys):
    with nothing_changes(here):
        assert main(["train", toy, "--dry-run", "--sweep", RATES]) == 0
    out = capsys.readouterr().out
    assert "train results/toy/learning_rate=0.01\n" in out
    assert "train results/toy/learning_rate=0.02\n" in out
    assert out.endswith("2 runs would be\n")


def test_a_dry_run_on_a_run_says_that_it_would_resume(toy, here, capsys):
    assert main(["train", toy, "--out", "run"]) == 0
    with nothing_changes(here):
        assert main(["train", toy, "--out", "run", "--dry-run"]) == 0
        assert "resume run\n" in capsys.readouterr().out
        assert main(["train", toy, "--out", "run", "--dry-run", "--seeds.num", "4"]) == 2


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = [
    (["--optimizer.learning-rat", "1"], "Unrecognized options: --optimizer.learning-rat, 1 Perhaps you meant: --opt"),
    (["--optimizer.learning-rate", "fast"], "--optimizer.learning-rate: could not convert string to float: 'fast'"),
    (["--train.num-steps", "1.5"], "--train.num-steps: invalid literal for int() with base 10: '1.5'"),
    (
        ["--model.bias", "maybe"],
        "invalid choice 'maybe' for argument '--model.bias'. Expected one of ('True', 'False')",
    ),
    (
        ["--model.activation", "tahn"],
        "invalid choice 'tahn' for argument '--model.activation'. Expected one of ('relu'",
    ),
    (["--seeds.num"], "Missing value for argument '--seeds.num'"),
    (["surplus"], "Unrecognized options: surplus"),
    (["--devices", "0"], "'0' is not a number of devices in [1, 1024]"),
    (["--devices", "two"], "'two' is not a number of devices in [1, 1024]"),
    (["--devices", "20000"], "'20000' is not a number of devices in [1, 1024]"),
    (["--devices", "3"], "3 devices were asked for, JAX sees 2 (cpu)"),
    (["--dask", "tcp://127.0.0.1:1"], "--dask spreads the points of a sweep, but this spec has no [sweep]"),
    (["--seeds.num", "0"], "seeds.num = 0 is out of range: a value in [1, 10000000] is expected"),
    (["--seeds.num", "-2"], "seeds.num = -2 is out of range"),
    (["--seeds.num", "100000000"], "seeds.num = 100000000 is out of range"),
    (["--seeds.ids", "3", "-1"], "seeds.ids = -1 is out of range: a value in [0, 4294967295] is expected"),
    (["--seeds.ids", "4294967296"], "seeds.ids = 4294967296 is out of range"),
    (["--seeds.ids", "1", "1"], "seeds.ids repeats [1]"),
    (["--seeds.num", "3", "--seeds.ids", "1"], "seeds.num = 3 but seeds.ids lists 1 seeds: give one of the two"),
    (["--model.hidden", "4", "0"], "model.hidden = [4, 0]: every layer needs at least 1 unit"),
    (["--train.batch-size", "121"], "train.batch_size = 121 is larger than the train set of iris: 120 examples"),
    (["--optimizer.learning-rate", "nan"], "optimizer.learning_rate = nan is out of range"),
    (["--data.noise", "0.1"], "data.noise = 0.1 does not apply to data.name = 'iris', only to: xor"),
    (["--data.name", "diabetes", "--objective.loss", "cross_entropy"], "needs class labels, but diabetes is a regress"),
    (["--name", "../up"], "name = '../up' names a folder"),
    (["--name", "/absolute"], "name = '/absolute' names a folder"),
    (["--sweep", "optimizer.learning_rate"], "--sweep 'optimizer.learning_rate': FIELD=[VALUE, ..] is expected"),
    (["--sweep", "train.num_steps=[1]\nx = 2"], "FIELD=[VALUE, ..] is expected"),
    (["--sweep", "train.num_steps=3"], "sweep = {'train.num_steps': 3}: expected `array`, got `int`"),
    (["--sweep", "train.num_step=[3]"], "there is no field 'train.num_step'; did you mean 'train.num_steps'?"),
    (["--sweep", "data.name=['iris', 'npz']"], "data.name = 'npz' needs data.path"),
    (["--sweep", "train.batch_size=[16, 121]"], "train.batch_size = 121 is larger than the train set of iris"),
    (["--model.hidden", "10000000", "10000000"], "GB free: store fewer checkpoints or seeds"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_bad_arguments_are_refused_before_anything_is_written(toy, here, capsys, arguments, message):
    with nothing_changes(here):
        assert code("train", toy, *arguments) == 2
    out, errors = capsys.readouterr()
    assert message in one_line(errors)
    assert "Traceback" not in errors
    assert out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[optimizer]\nlearning_rat = 1\n", "unknown key 'learning_rat' in section [optimizer]; did you mean 'learn"),
        (b"[modle]\n", "bad.toml: unknown key 'modle' in the top level; did you mean 'model'?"),
        (b"seeds = 0\n", "bad.toml: seeds = 0: expected `table`, got `int`"),
        (b'[train]\nnum_steps = "10"\n', "bad.toml: train.num_steps = '10': expected `int`, got `str`"),
        (b"[seeds]\nnum = 0\n", "seeds.num = 0 is out of range"),
        (b"[seeds]\nids = [1, 2, 1]\n", "seeds.ids repeats [1]"),
        (b"[model]\nhidden = [0]\n", "every layer needs at least 1 unit"),
        (b"[data\n", "bad.toml is not valid TOML"),
        (b"\xff\xfe\x00", "bad.toml cannot be read as a spec"),
        (b'name = "a/b"\n', "name = 'a/b' names a folder"),
        (None, "there is no spec file 'bad.toml'; examples are in runs/"),
        ("folder", "bad.toml cannot be read as a spec"),
    ],
)
def test_bad_specs_are_refused_before_anything_is_written(here, capsys, content, message):
    if content == "folder":
        Path("bad.toml").mkdir()
    elif content is not None:
        Path("bad.toml").write_bytes(content)
    with nothing_changes(here):
        assert main(["run", "bad.toml"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors


def damaged(rng, how: str) -> dict[str, np.ndarray] | bytes | None:
    """What is in an npz file that is `how`."""
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    if how == "nan":
        x[3, 1] = np.nan
    elif how == "infinite":
        x[3, 1] = np.inf
    elif how == "constant":
        x[:, 1] = 1
    elif how == "object":
        return {"x": x.astype(object), "y": y}
    elif how == "missing":
        return None
    elif how == "truncated":
        return b"PK\x03\x04" + bytes(40)
    elif how == "no y":
        return {"x": x}
    labels = {"negative": y - 1, "gap": 2 * y, "short": y[:-1]}
    return {"x": x, "y": labels.get(how, y)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "x.npz: 1 of the inputs are NaN or infinite, the first at (3, 1)"),
        ("infinite", "x.npz: 1 of the inputs are NaN or infinite"),
        ("constant", "x.npz: 1 features are constant over the train set, ['x1']"),
        ("negative", "x.npz: label -1 is out of range: 0 .. K-1 are expected"),
        ("gap", "x.npz: labels run up to 2, but no train example has label 1"),
        ("short", "x.npz: 40 inputs but 39 labels or targets"),
        ("object", "x.npz: x.npy is an object array"),
        ("missing", "there is no file 'x.npz'"),
        ("truncated", "x.npz cannot be read as npz"),
        ("no y", "x.npz has the arrays ['x'], ['y'] is missing"),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(toy, here, rng, capsys, how, message):
    held = damaged(rng, how)
    if isinstance(held, bytes):
        Path("x.npz").write_bytes(held)
    elif held is not None:
        np.savez("x.npz", allow_pickle=how == "object", **held)
    with nothing_changes(here):
        assert main(["train", toy, "--data.name", "npz", "--data.path", "x.npz", "--train.batch-size", "8"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "file exists and is not a run: choose another --out, or remove it"),
        ("file/run", "file is not a writable folder; choose another --out"),
        ("thesis", "thesis exists and is not a run"),
        (".", "exists and is not a run"),
        ("", "exists and is not a run"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("swept", [False, True])
def test_folders_of_others_are_refused_and_untouched(toy, here, capsys, out, message, swept):
    Path("file").write_text("mine")
    Path("thesis").mkdir()
    Path("thesis/thesis.txt").write_text("mine")
    with nothing_changes(here):
        assert code("train", toy, "--out", out, *(["--sweep", RATES] if swept else [])) == 2
    assert (message.replace("a run", "a sweep") if swept else message) in capsys.readouterr().err


def test_a_changed_spec_is_refused_with_the_difference_and_the_run_untouched(toy, here, capsys):
    assert main(["train", toy, "--out", "run"]) == 0
    capsys.readouterr()
    with nothing_changes(here):
        assert main(["run", toy, "--out", "run", "--optimizer.learning-rate", "0.5", "--model.hidden", "6"]) == 2
        assert capsys.readouterr().err == (
            "error: run holds a run of another spec; choose another --out, or undo the change:\n"
            "  model.hidden: (5,) -> (6,)\n"
            "  optimizer.learning_rate: 0.01 -> 0.5\n"
        )
        assert main(["train", toy, "--out", "run", "--sweep", RATES]) == 2
        assert "run holds a run: choose another --out" in capsys.readouterr().err
        assert main(["train", toy, "--out", "run", "--train.batch-size", "1000"]) == 2


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "there is no run folder 'nothing'"),
        ("toy.toml", "there is no run folder 'toy.toml'"),
        (".", "is not a run folder: spec.toml, provenance.json and run.zarr are expected in it"),
    ],
)
def test_what_is_no_run_has_no_status_and_no_report(toy, here, capsys, command, path, message):
    with nothing_changes(here):
        assert main([command, path]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["status"], ["status", "a", "b"], ["doctor", "--fast"]])
def test_commands_that_do_not_exist_show_the_usage(here, capsys, arguments):
    assert code(*arguments) == 2
    assert "usage: wspace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("provenance.json", b'{"schema"'),
        ("run.zarr/theta/c/0/1/0", None),
        ("run.zarr/theta/c/0/1/0", b"abc"),
        ("run.zarr/metrics/train_loss/zarr.json", b"{}"),
        ("run.zarr/done/c/0/0", b"a"),
    ],
)
def test_damaged_runs_are_refused_by_train_and_report(toy, here, capsys, part, content):
    assert main(["train", toy, "--out", "run"]) == 0
    Path("run", part).unlink() if content is None else Path("run", part).write_bytes(content)
    capsys.readouterr()
    with nothing_changes(here):
        for arguments in (["train", toy, "--out", "run"], ["report", "run"]):
            assert main(arguments) == 2
            errors = capsys.readouterr().err
            assert errors.startswith("error: run")
            assert "damaged" in errors


# --- what fails on the way ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_diverging_seed_is_told_the_others_finish_and_the_report_is_written(toy, here, capsys):
    assert main(["run", toy, "--out", "run", *SOME_DIVERGE]) == 1
    lines = capsys.readouterr().out.splitlines()
    run = open_run("run")
    np.testing.assert_array_equal(run.diverged_at >= 0, [False, True, False])
    told = f"seed 1 diverged at step {run.diverged_at[1]}; the others go on"
    ends = "1 of 3 seeds diverged and are kept out of the analyses"
    assert lines.index(told) < lines.index(ends)
    assert any(line.startswith("2 of 3 seeds trained to step 40 in run") for line in lines)
    assert run.complete
    assert np.isfinite(np.asarray(run.theta[:])[[0, 2]]).all()
    assert (here / "run/report/index.html").is_file()
    assert main(["train", toy, "--out", "run", *SOME_DIVERGE]) == 1, "still so when nothing is left to train"
    assert main(["status", "run"]) == 0


def test_a_run_of_which_every_seed_diverged_has_a_status_and_a_report(toy, here, capsys):
    assert main(["run", toy, "--out", "run", "--optimizer.learning-rate", "1e30"]) == 1
    assert "0 of 3 seeds trained to step 12 in run\n3 of 3 seeds diverged" in capsys.readouterr().out
    assert main(["status", "run"]) == 0
    assert capsys.readouterr().out.endswith("complete\n")


@pytest.mark.slow
def test_a_sweep_with_a_failing_point_goes_on_and_exits_1(toy, here, capsys, monkeypatch):
    def failing(spec, *args, **kwargs):
        if spec.optimizer.learning_rate == 0.01:
            raise MemoryError("too large")
        return training.train(spec, *args, **kwargs)

    command = ["run", toy, "--out", "s", "--sweep", "optimizer.learning_rate=[0.01, 0.02, 1e30]"]
    with monkeypatch.context() as patched:
        patched.setattr(sweep, "train", failing)
        assert main(command) == 1
    out = capsys.readouterr().out
    assert "failed learning_rate=0.01: Traceback" in out
    assert "MemoryError: too large" in out
    assert "3 seeds diverged in learning_rate=1e+30" in out
    assert "2 of 3 runs complete in s; 1 failed, 3 seeds diverged" in out
    assert (here / "s/report/index.html").is_file()
    assert main(["status", "s"]) == 0
    out = capsys.readouterr().out
    assert "not begun" in next(line for line in out.splitlines() if "learning_rate=0.01" in line)
    assert out.endswith("2 of 3 runs complete: the training command resumes it\n")
    assert main(["train", toy, "--out", "s", "--sweep", "optimizer.learning_rate=[0.01, 0.02]"]) == 2
    assert main(command) == 1, "the other point still diverges"
    assert "3 of 3 runs complete in s; 0 failed, 3 seeds diverged" in capsys.readouterr().out


def test_the_status_of_a_sweep_shows_whole_names(toy, here, capsys, monkeypatch):
    assert main(["train", toy, "--out", "s", "--sweep", RATES]) == 0
    monkeypatch.setenv("COLUMNS", "70")
    capsys.readouterr()
    assert main(["status", "s"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.endswith("2 of 2 runs complete\n")


def interrupt_at_commit(monkeypatch, number: int):
    """Ctrl-C just before the numbered commit."""
    left, right = [number], Store.commit

    def commit(self, *args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        right(self, *args)

    monkeypatch.setattr(training, "COMMIT_CHECKPOINTS", 1)
    monkeypatch.setattr(Store, "commit", commit)


def test_an_interrupted_run_is_resumed_by_the_same_command(toy, here, capsys, monkeypatch):
    assert main(["train", toy, "--out", "whole"]) == 0
    with monkeypatch.context() as patched:
        interrupt_at_commit(patched, 5)
        assert main(["train", toy, "--out", "run"]) == 130
    assert "interrupted; the same command resumes" in capsys.readouterr().err
    assert main(["status", "run"]) == 0
    assert capsys.readouterr().out.endswith("incomplete: the training command resumes it\n")
    assert main(["report", "run"]) == 0
    assert main(["train", toy, "--out", "run"]) == 0
    assert "toy: resuming at " in capsys.readouterr().out
    np.testing.assert_array_equal(open_run("run").theta[:], open_run("whole").theta[:])


def test_an_interrupted_sweep_is_resumed_by_the_same_command(toy, here, capsys, monkeypatch):
    command = ["train", toy, "--out", "s", "--sweep", RATES]
    with monkeypatch.context() as patched:
        interrupt_at_commit(patched, 14)  # 8 of the first point
        assert main(command) == 130
    assert main(["status", "s"]) == 0
    assert "1 of 2 runs complete: the training command resumes it" in capsys.readouterr().out
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "1/2 learning_rate=0.01: complete, nothing to train" in out
    assert "2/2 learning_rate=0.02: resuming at" in out


def test_a_disk_that_fills_up_ends_with_what_to_do_and_keeps_what_was_committed(toy, here, capsys, monkeypatch):
    def full(self, *args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(training, "COMMIT_CHECKPOINTS", 1)
        patched.setattr(Store, "_save_state", full)
        assert main(["train", toy, "--out", "run"]) == 2
    assert "cannot write to run: No space left on device; what was committed is kept" in capsys.readouterr().err
    assert main(["train", toy, "--out", "run"]) == 0


def test_a_run_that_another_process_trains_is_refused(toy, here, capsys):
    assert main(["train", toy, "--out", "run"]) == 0
    with Store("run", "r+").lock():
        assert main(["train", toy, "--out", "run"]) == 2
        assert "run is being trained by another process; wait for it or stop it" in capsys.readouterr().err
        assert main(["status", "run"]) == 0


# --- doctor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "expected", "word"), [(1e-7, 0, "fit"), (1.0, 1, "computes wrong numbers")])
def test_doctor_exits_1_when_numbers_are_wrong(capsys, monkeypatch, error, expected, word):
    monkeypatch.setattr(doctor, "matmul_peak", lambda: 5e10)
    monkeypatch.setattr(doctor, "check_numbers", lambda: [Check("matmul", error, 1e-5)])
    assert main(["doctor"]) == expected
    out = capsys.readouterr().out
    assert word in out
    assert "50 GFLOP/s" in out
    assert "2 x cpu (cpu)" in out


# --- in a process of its own --------------------------------------------------------------------------------------


def command(*arguments, **options) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    whole = [sys.executable, "-m", "wspace.cli", *arguments]
    return subprocess.run(whole, stderr=subprocess.PIPE, text=True, env=env, **options)


def test_devices_are_made_as_asked(toy, here):
    done = command("train", toy, "--devices", "2", "--dry-run", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 2 x cpu" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_an_error_and_the_run_is_kept(toy, here):
    with open("/dev/full", "w") as full:
        done = command("train", toy, "--out", "run", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("error: [Errno 28] No space left on device")
    assert open_run("run").complete
