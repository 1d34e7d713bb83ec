import ast
import math
import re
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wspace import spec as specs
from wspace.errors import SpecError
from wspace.spec import DataSpec, Spec

SECTIONS = [f for f in Spec.__struct_fields__ if isinstance(getattr(Spec(), f), msgspec.Struct)]
FIELDS = [(section, field) for section in SECTIONS for field in getattr(Spec(), section).__struct_fields__]


def refusal(**tree) -> str:
    with pytest.raises(SpecError) as caught:
        specs.parse(tree)
    return str(caught.value)


def positive(most=1e6):
    return st.floats(1e-6, most)


@st.composite
def valid_trees(draw):
    """What a spec file may hold, of every kind that `parse` accepts."""
    num_steps = draw(st.integers(1, 10**6))
    steps = st.integers(0, num_steps)
    schedule = draw(st.sampled_from(["constant", "cosine", "warmup_cosine", "step"] if num_steps > 1 else ["constant"]))
    checkpoints = draw(st.sampled_from(["linear", "log", "list"]))
    optimizer = draw(st.sampled_from(["sgd", "momentum", "adam", "adamw"]))
    vary = draw(st.sampled_from(["init", "order", "both"]))
    data = draw(
        st.sampled_from(
            [
                {"name": "digits"},
                {"name": "npz", "path": "some folder/häuser.npz", "num_examples": 100},
                {"name": "openml", "dataset": "mnist_784", "version": 2},
                {"name": "teacher", "num_classes": 0, "teacher_hidden": [3, 2], "noise": 0.5, "seed": 7},
                {"name": "spirals", "num_classes": 3},
            ]
        )
    )
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,20}", fullmatch=True)),
        "question": draw(st.text(st.characters(codec="utf-8"), max_size=30)),
        "data": data | {"test_fraction": draw(st.floats(0.01, 0.99)), "standardize": draw(st.booleans())},
        "model": {
            "hidden": draw(st.lists(st.integers(1, 999), max_size=4)),
            "activation": draw(st.sampled_from(["relu", "tanh", "gelu", "identity"])),
            "init_scale": draw(positive()),
        },
        "objective": {"l2": draw(st.floats(0, 10))},
        "optimizer": {
            "name": optimizer,
            "learning_rate": draw(positive()),
            "weight_decay": 0.0 if optimizer == "adam" else draw(st.floats(0, 10)),
        },
        "schedule": {
            "kind": schedule,
            "warmup_steps": draw(st.integers(0, num_steps - 1)) if schedule == "warmup_cosine" else 0,
            "boundaries": sorted(draw(st.sets(st.integers(1, num_steps - 1), min_size=1, max_size=3)))
            if schedule == "step"
            else [],
        },
        "train": {"num_steps": num_steps, "batch_size": draw(st.integers(0, 10**6))},
        "checkpoints": {
            "schedule": checkpoints,
            "num": draw(st.integers(2, 300)),
            "steps": list(draw(st.sets(steps, min_size=1, max_size=5))) if checkpoints == "list" else [],
        },
        "seeds": {
            **draw(
                st.one_of(
                    st.builds(lambda num: {"num": num}, st.integers(1, 500)),
                    st.builds(lambda ids: {"ids": list(ids)}, st.sets(st.integers(0, 2**32 - 1), min_size=1)),
                )
            ),
            "vary": vary,
            "fork_step": draw(st.integers(0, num_steps - 1)) if vary == "order" else 0,
        },
        "sweep": draw(
            st.sampled_from(
                [
                    {},
                    {"optimizer.learning_rate": [0.1, 1]},
                    {"model.hidden": [[], [8], [8, 8]], "model.bias": [True, False]},
                    {"data.split_seed": [0, 1], "objective.loss": ["auto", "squared_error"]},
                ]
            )
        ),
    }


@given(valid_trees())
def test_toml_round_trip_gives_the_same_spec(tree):
    spec = specs.parse(tree)
    assert specs.parse(tomllib.loads(specs.to_toml(spec))) == spec


@given(valid_trees())
def test_normalising_twice_changes_nothing(tree):
    spec = specs.parse(tree)
    assert specs.normalise(spec) == spec
    assert all(specs.normalise(point.spec) == point.spec for point in specs.grid(spec))


@given(valid_trees())
def test_checkpoints_are_increasing_and_hold_the_first_the_fork_and_the_last_step(tree):
    spec = specs.parse(tree)
    steps = specs.checkpoint_steps(spec)
    assert list(steps) == sorted(set(steps))
    assert {0, spec.seeds.fork_step, spec.train.num_steps} <= set(steps)
    assert (steps[0], steps[-1]) == (0, spec.train.num_steps)
    assert len(steps) <= max(spec.checkpoints.num, len(spec.checkpoints.steps) + 2) + 1


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_docstring_for_the_command_lines_help(section):
    kind = type(getattr(Spec(), section))
    classes = [node for node in ast.parse(Path(specs.__file__).read_text()).body if isinstance(node, ast.ClassDef)]
    (body,) = [node.body for node in classes if node.name == kind.__name__]
    for field, text in zip(body[1::2], body[2::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(text, ast.Expr)


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_misspelt_keys_are_refused_with_the_nearest_valid_one(section, field):
    misspelt = field[:-1] + "x" + field[-1]
    assert refusal(**{section: {misspelt: 1}}) == (
        f"unknown key {misspelt!r} in section [{section}]; did you mean {field!r}?"
    )


@pytest.mark.parametrize("name", Spec.__struct_fields__)
def test_misspelt_sections_are_refused_with_the_nearest_valid_one(name):
    assert refusal(**{f"{name}s_": {}}) == f"unknown key '{name}s_' in the top level; did you mean {name!r}?"


def test_keys_like_nothing_else_are_refused_with_the_valid_ones():
    assert "valid: num_steps, batch_size" in refusal(train={"qqqq": 1})


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_wrong_types_are_refused_naming_the_field_and_what_was_received(section, field):
    message = refusal(**{section: {field: {"a": 1}}})
    assert message.startswith(f"{section}.{field} = {{'a': 1}}: expected `")


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_that_are_values_are_refused(section):
    assert refusal(**{section: 3}) == f"{section} = 3: expected `table`, got `int`"


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "num_steps", 10.0, "expected `int`, got `float`"),
        ("train", "num_steps", True, "expected `int`, got `bool`"),
        ("train", "num_steps", "10", "expected `int`, got `str`"),
        ("model", "hidden", 3, "expected `array`, got `int`"),
        ("model", "hidden", [3, "4"], "expected `int`, got `str`"),
        ("model", "bias", 1, "expected `bool`, got `int`"),
        ("optimizer", "learning_rate", "0.1", "expected `float`, got `str`"),
        ("optimizer", "learning_rate", 10**400, "number out of range"),
    ],
)
def test_numbers_are_not_guessed_from_other_types(section, field, value, message):
    assert refusal(**{section: {field: value}}) == f"{section}.{field} = {value!r}: {message}"


@pytest.mark.parametrize(
    ("section", "field", "value", "nearest"),
    [
        ("data", "name", "digit", "; did you mean 'digits'?"),
        ("optimizer", "name", "adma", "; did you mean 'adam'?"),
        ("model", "activation", "qq", "; valid: relu, tanh, gelu, identity"),
        ("seeds", "vary", "inits", "; did you mean 'init'?"),
    ],
)
def test_unknown_choices_are_refused_with_the_valid_ones(section, field, value, nearest):
    assert refusal(**{section: {field: value}}) == f"{section}.{field} = {value!r} is unknown{nearest}"


OUT_OF_RANGE = [
    ("seeds", {"num": 0}, "seeds.num = 0 is out of range: a value in [1, 10000000]"),
    ("seeds", {"num": -3}, "seeds.num = -3 is out of range"),
    ("seeds", {"ids": []}, "seeds.ids is empty: at least one seed is expected"),
    ("optimizer", {"beta2": 0.99999999}, "optimizer.beta2 = 0.99999999 is out of range"),
    ("seeds", {"ids": [3, -1]}, "seeds.ids = -1 is out of range: a value in [0, 4294967295]"),
    ("seeds", {"ids": [2**32]}, "seeds.ids = 4294967296 is out of range"),
    ("seeds", {"ids": [3, 1, 3]}, "seeds.ids repeats [3]"),
    ("seeds", {"ids": [3, 1], "num": 3}, "seeds.num = 3 but seeds.ids lists 2 seeds"),
    ("seeds", {"parent": -1}, "seeds.parent = -1 is out of range"),
    ("seeds", {"root": 2**32}, "seeds.root = 4294967296 is out of range"),
    ("seeds", {"fork_step": 5}, "seeds.fork_step = 5 needs seeds.vary = 'order'"),
    ("seeds", {"fork_step": 5, "vary": "init"}, "seeds.fork_step = 5 needs seeds.vary = 'order'"),
    ("seeds", {"fork_step": 1000, "vary": "order"}, "seeds.fork_step = 1000 is out of range: a value in [0, 999]"),
    ("model", {"hidden": [8, 0]}, "model.hidden = [8, 0]: every layer needs at least 1 unit"),
    ("model", {"init_scale": 0.0}, "model.init_scale = 0.0 is out of range"),
    ("objective", {"l2": -1e-4}, "objective.l2 = -0.0001 is out of range"),
    (
        "optimizer",
        {"name": "momentum", "momentum": 1.0},
        "optimizer.momentum = 1.0 is out of range: a value in [0, 0.99",
    ),
    ("optimizer", {"beta2": -0.1}, "optimizer.beta2 = -0.1 is out of range"),
    ("optimizer", {"epsilon": 0}, "optimizer.epsilon = 0.0 is out of range"),
    (
        "optimizer",
        {"weight_decay": 0.1},
        "weight_decay = 0.1 does not apply to optimizer.name = 'adam', only to: sgd",
    ),
    ("train", {"num_steps": 0}, "train.num_steps = 0 is out of range: a value in [1, "),
    ("train", {"num_steps": 2**31}, "train.num_steps = 2147483648 is out of range"),
    ("train", {"batch_size": -1}, "train.batch_size = -1 is out of range"),
    (
        "schedule",
        {"warmup_steps": 5},
        "warmup_steps = 5 does not apply to schedule.kind = 'constant', only to: warmup",
    ),
    ("schedule", {"warmup_steps": 1000, "kind": "warmup_cosine"}, "schedule.warmup_steps = 1000 is out of range"),
    ("schedule", {"kind": "step"}, "'step' needs boundaries"),
    ("schedule", {"boundaries": [5]}, "the other kinds take none"),
    ("schedule", {"kind": "step", "boundaries": [7, 5]}, "schedule.boundaries = [7, 5]: strictly increasing steps"),
    ("schedule", {"kind": "step", "boundaries": [1000]}, "inside (0, 1000) are expected"),
    ("schedule", {"kind": "cosine", "final_fraction": 1.5}, "schedule.final_fraction = 1.5 is out of range"),
    ("checkpoints", {"num": 1}, "checkpoints.num = 1 is out of range: a value in [2, 1000000]"),
    ("checkpoints", {"steps": [1]}, "'list' needs steps, the other schedules take none"),
    ("checkpoints", {"schedule": "list"}, "'list' needs steps, the other schedules take none"),
    ("checkpoints", {"schedule": "list", "steps": [2, 2]}, "checkpoints.steps = [2, 2]: distinct steps"),
    ("checkpoints", {"schedule": "list", "steps": [1001]}, "in [0, train.num_steps = 1000] are expected"),
    ("engine", {"block_width": -1}, "engine.block_width = -1 is out of range"),
    ("data", {"test_fraction": 0}, "data.test_fraction = 0.0 is out of range: a value in (0, 1) is expected"),
    ("data", {"test_fraction": 1}, "data.test_fraction = 1.0 is out of range: a value in (0, 1) is expected"),
    ("data", {"split_seed": -1}, "data.split_seed = -1 is out of range"),
    ("data", {"name": "idx"}, "data.name = 'idx' needs data.path"),
    ("data", {"name": "npz"}, "data.name = 'npz' needs data.path"),
    ("data", {"name": "openml"}, "data.name = 'openml' needs data.dataset"),
    ("data", {"name": "xor", "noise": -0.1}, "data.noise = -0.1 is out of range"),
    ("data", {"name": "xor", "num_examples": 3}, "data.num_examples = 3 is out of range"),
    ("data", {"name": "spirals", "num_classes": 0}, "data.num_classes = 0 is out of range: a value in [2, "),
    ("data", {"name": "teacher", "num_classes": 1}, "data.num_classes = 1: 0 (regression) or at least 2"),
    ("data", {"name": "teacher", "teacher_hidden": [4, 0]}, "every layer needs at least 1 unit"),
]


@pytest.mark.parametrize(("section", "values", "message"), OUT_OF_RANGE, ids=str)
def test_values_that_cannot_be_trained_are_refused(section, values, message):
    assert message in refusal(**{section: values})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 0.0, 1e-50, 1e50])
def test_learning_rates_that_float32_does_not_hold_are_refused(value):
    assert refusal(optimizer={"learning_rate": value}).startswith(f"optimizer.learning_rate = {value} is out of range")


@pytest.mark.parametrize(("field", "section"), [("l2", "objective"), ("init_scale", "model"), ("epsilon", "optimizer")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(section, field, value):
    assert f"{section}.{field} = {value} is out of range" in refusal(**{section: {field: value}})


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/tmp/x", "a..b", ".hidden", "a b", "-x", "ä", "x" * 101]
)
def test_names_that_are_not_a_plain_folder_are_refused(name):
    assert refusal(name=name).startswith(f"name = {name!r} names a folder")


@pytest.mark.parametrize(("section", "field"), [("", "question"), ("data", "path"), ("data", "dataset")])
def test_text_that_is_not_unicode_is_refused(section, field):
    values = {"question": {}, "path": {"name": "npz"}, "dataset": {"name": "openml"}}[field] | {field: "a\udcff"}
    message = refusal(**({section: values} if section else values))
    assert f"{field} = 'a\\udcff' is not Unicode" in message


@pytest.mark.parametrize("name", ["x", "a.b", "digits_2", "A-1+b", "x" * 100])
def test_plain_names_are_kept(name):
    assert specs.parse({"name": name}).name == name


@pytest.mark.parametrize("hidden", [[], [1], [32, 16, 8]])
def test_networks_of_any_depth_are_accepted(hidden):
    assert specs.parse({"model": {"hidden": hidden}}).model.hidden == tuple(hidden)


@pytest.mark.parametrize("option", specs._OPTIONS, ids=lambda option: ".".join(option[:2]))
def test_options_that_would_do_nothing_are_refused(option):
    section, field, chooser, applies = option
    value = {"path": "x", "dataset": "x", "teacher_hidden": [3], "warmup_steps": 5, "num_examples": 5, "version": 5}
    value |= {"channels": [3], "kernel": 5, "pool_size": 5, "pooling": "mean"}
    value = value.get(field, 5 if section == "data" and field != "noise" else 0.5)
    choices = get_args(get_type_hints(type(getattr(specs.Spec(), section)))[chooser])
    for name in choices:
        if name in applies:
            continue
        given = {chooser: name, field: value, **({"boundaries": [5]} if name == "step" else {})}
        message = refusal(**{section: given})
        assert message.startswith(f"{section}.{field} = ")
        assert message.endswith(f"does not apply to {section}.{chooser} = {name!r}, only to: {', '.join(applies)}")


def test_what_is_left_out_takes_its_default():
    spec = specs.parse({})
    assert spec.data == DataSpec()
    assert specs.seed_ids(spec) == tuple(range(16))
    assert spec.seeds.num == 16


def test_explicit_seeds_keep_their_order():
    spec = specs.parse({"seeds": {"ids": [7, 0, 2**32 - 1]}})
    assert specs.seed_ids(spec) == (7, 0, 2**32 - 1)
    assert spec.seeds.num == 3


def test_constructed_specs_are_checked_like_parsed_ones():
    spec = Spec(train=specs.TrainSpec(num_steps="ten"))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"train.num_steps = 'ten': expected `int`"):
        specs.normalise(spec)


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        ({"schedule": "linear", "num": 5}, (0, 25, 50, 75, 100)),
        ({"schedule": "linear", "num": 2}, (0, 100)),
        ({"schedule": "log", "num": 4}, (0, 4, 21, 100)),  # 101^(i/3) - 1, rounded
        ({"schedule": "list", "steps": [50, 3]}, (0, 3, 50, 100)),
        ({"schedule": "linear", "num": 1000}, tuple(range(101))),
    ],
)
def test_checkpoint_schedules(checkpoints, expected):
    assert specs.checkpoint_steps(specs.parse({"train": {"num_steps": 100}, "checkpoints": checkpoints})) == expected


def test_the_fork_is_a_checkpoint():
    seeds = {"vary": "order", "fork_step": 7}
    spec = specs.parse({"train": {"num_steps": 100}, "checkpoints": {"num": 2}, "seeds": seeds})
    assert specs.checkpoint_steps(spec) == (0, 7, 100)


def test_grid_is_the_product_with_the_last_field_fastest():
    spec = specs.parse({"sweep": {"optimizer.learning_rate": [0.1, 0.01], "model.hidden": [[8], [16, 4]]}})
    points = specs.grid(spec)
    assert [(p.spec.optimizer.learning_rate, p.spec.model.hidden) for p in points] == [
        (0.1, (8,)),
        (0.1, (16, 4)),
        (0.01, (8,)),
        (0.01, (16, 4)),
    ]
    assert [p.folder for p in points] == [
        "learning_rate=0.1,hidden=8",
        "learning_rate=0.1,hidden=16-4",
        "learning_rate=0.01,hidden=8",
        "learning_rate=0.01,hidden=16-4",
    ]
    assert all(point.spec.sweep == {} for point in points)


def test_nothing_swept_is_one_point():
    spec = specs.parse({})
    (point,) = specs.grid(spec)
    assert (point.values, point.spec) == ({}, spec)


def test_folders_of_fields_with_one_leaf_name_say_which():
    spec = specs.parse(
        {"sweep": {"data.seed": [1], "seeds.root": [1], "data.name": ["xor"], "optimizer.name": ["sgd"]}}
    )
    assert specs.grid(spec)[0].folder == "seed=1,root=1,data.name=xor,optimizer.name=sgd"


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_folders_of_a_sweep_are_safe_whatever_the_value(text):
    folder = specs.Point({"data.path": text}, Spec()).folder
    assert re.fullmatch(r"path=[A-Za-z0-9_.+-]*", folder)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=9, unique=True))
def test_folders_of_a_sweep_are_unique(rates):
    points = specs.grid(specs.parse({"sweep": {"optimizer.learning_rate": rates}}))
    assert len({point.folder for point in points}) == len(rates)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            {"optimizer.learning_rat": [1.0]},
            "no field 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?",
        ),
        ({"learning_rate": [1.0]}, "there is no field 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        ({"name": ["a"]}, "there is no field 'name'"),
        ({"sweep": [1]}, "there is no field 'sweep'"),
        ({"optimizer.learning_rate": []}, "sweep.optimizer.learning_rate is empty"),
        ({"optimizer.learning_rate": 0.1}, "sweep = {'optimizer.learning_rate': 0.1}: expected `array`, got `float`"),
        ({"optimizer.learning_rate": ["a"]}, "optimizer.learning_rate = 'a': expected `float`, got `str`"),
        ({"optimizer.learning_rate": [0.1, -1]}, "optimizer.learning_rate = -1.0 is out of range"),
        ({"optimizer.learning_rate": [0.1, 0.1]}, "share a folder name: ['learning_rate=0.1']"),
        ({"model.activation": ["relu", "tahn"]}, "model.activation = 'tahn' is unknown; did you mean 'tanh'?"),
        ({"optimizer.weight_decay": [0.1]}, "weight_decay = 0.1 does not apply to optimizer.name = 'adam'"),
        ({"seeds.ids": [[1, 2]], "seeds.num": [3]}, "seeds.num = 3 but seeds.ids lists 2"),
        ({"model.hidden": [[111] * 80]}, "is too long"),
    ],
)
def test_sweeps_that_cannot_be_trained_are_refused(sweep, message):
    assert message in refusal(sweep=sweep)


def test_swept_fields_need_no_quotes():
    quoted = specs.parse(tomllib.loads('[sweep]\n"optimizer.learning_rate" = [0.1]\n"model.hidden" = [[8], []]'))
    plain = specs.parse(tomllib.loads("[sweep]\noptimizer.learning_rate = [0.1]\nmodel.hidden = [[8], []]"))
    assert quoted == plain
    assert len(specs.grid(plain)) == 2


def test_seeds_can_be_swept_as_lists_and_as_counts():
    lists = specs.grid(specs.parse({"seeds": {"num": 5}, "sweep": {"seeds.ids": [[4, 2], [9]]}}))
    assert [specs.seed_ids(point.spec) for point in lists] == [(4, 2), (9,)]
    counts = specs.grid(specs.parse({"seeds": {"ids": [7, 8, 9]}, "sweep": {"seeds.num": [1, 2]}}))
    assert [specs.seed_ids(point.spec) for point in counts] == [(0,), (0, 1)]


def test_difference_shows_every_changed_field():
    old = specs.parse({"data": {"name": "xor"}, "train": {"num_steps": 5}})
    new = specs.parse({"data": {"name": "xor", "noise": 0.5}, "train": {"num_steps": 6}, "seeds": {"ids": [1]}})
    assert specs.difference(old, new) == [
        "train.num_steps: 5 -> 6",
        "seeds.num: 16 -> 1",
        "data.noise: 'unset' -> 0.5",
        "seeds.ids: 'unset' -> (1,)",
    ]
    assert specs.difference(old, old) == []


def test_load_reads_a_file_and_names_the_spec_after_it(tmp_path):
    path = tmp_path / "häuser-2.toml"
    path.with_name("plain.toml").write_text("[train]\nnum_steps = 3\n")
    spec = specs.load(path.with_name("plain.toml"))
    assert (spec.name, spec.train.num_steps) == ("plain", 3)
    path.write_text("")
    with pytest.raises(SpecError, match="names a folder"):
        specs.load(path)


def test_errors_in_a_file_name_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    for content, message in [
        (b"[modle]\n", f"{path}: unknown key 'modle' in the top level; did you mean 'model'?"),
        (b"[model\n", f"{path} is not valid TOML"),
        (b"\xff\xfe", f"{path} cannot be read as a spec"),
        (b"a = " + 10_000 * b"[", f"{path} is not valid TOML"),
    ]:
        path.write_bytes(content)
        with pytest.raises(SpecError) as caught:
            specs.load(path)
        assert str(caught.value).startswith(message)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[train]\nnum_steps = 3\n")
    assert specs.load(tmp_path / "bom.toml").train.num_steps == 3


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"there is no spec file '.*nothing.toml'; examples are in runs/"):
        specs.load(tmp_path / "nothing.toml")
    with pytest.raises(SpecError, match="cannot be read as a spec"):
        specs.load(tmp_path)
