"""The experiment spec: frozen, strict, complete; read from TOML, overridden on the command line.

A spec says everything that decides a run's numbers. What only decides where or how fast it runs (output folder,
number of devices) is not part of it. `load` and `parse` check every field before any work starts.
"""

import difflib
import math
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
import tomli_w

from wspace.errors import SpecError

MAX_SEED = 2**32 - 1  # jax.random.fold_in takes a uint32
TINY, HUGE = 1.2e-38, 3.4e38  # training computes in float32: what is smaller becomes 0, what is larger infinite
BELOW_ONE = 1 - 2**-24  # and what lies between this and 1 becomes 1

SweepValue = bool | int | float | str | tuple[int, ...]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every section: immutable, and a misspelt key is an error."""


class DataSpec(_Section, frozen=True):
    """Which examples, and how they are split. Options that do not apply to `name` are refused."""

    name: Literal[
        "digits",
        "iris",
        "wine",
        "breast_cancer",
        "diabetes",
        "idx",
        "npz",
        "openml",
        "xor",
        "spirals",
        "moons",
        "teacher",
        "random_labels",
    ] = "digits"
    """Bundled (digits, iris, wine, breast_cancer, diabetes), from files (idx, npz), openml, or synthetic."""
    path: str = ""
    """File or folder for idx and npz; cache folder for openml."""
    dataset: str = ""
    """OpenML's name of the dataset, e.g. mnist_784."""
    version: int = 1
    """OpenML's version of the dataset."""
    split: Literal["random", "ordered"] = "random"
    """random: shuffled (stratified for classification); ordered: the last examples are the test set."""
    test_fraction: float = 0.2
    """Share of the examples kept for test, in (0, 1)."""
    split_seed: int = 0
    """Seed of the random split."""
    standardize: bool = True
    """Shift and scale every feature by the mean and standard deviation of the train set."""
    constant_features: Literal["auto", "refuse", "keep"] = "auto"
    """Features equal in all train examples: refuse them, or keep them (centred to 0). auto: keep in images only."""
    num_examples: int | None = None
    """Examples to draw (synthetic) or to keep from the front (files, openml). Default: 1000 drawn, all kept."""
    num_features: int | None = None
    """Input dimension of teacher and random_labels (default 20) and of xor (default 2: parity of the signs)."""
    num_classes: int | None = None
    """Classes of spirals (default 2), teacher (default 0: regression) and random_labels (default 10)."""
    noise: float | None = None
    """Standard deviation of the noise added to xor, spirals, moons (inputs, default 0.1) and teacher (targets, 0)."""
    teacher_hidden: tuple[int, ...] | None = None
    """Hidden widths of the teacher network (default [4])."""
    seed: int = 0
    """Seed of the synthetic draw."""


class ModelSpec(_Section, frozen=True):
    """The network's architecture and how its weights are drawn."""

    kind: Literal["mlp", "convnet"] = "mlp"
    """mlp: a fully connected network. convnet: blocks of convolution, activation and pooling, then dense layers."""
    hidden: tuple[int, ...] = (32, 32)
    """Units of each hidden layer; empty for a linear model. convnet: of the dense layers between blocks and outputs."""
    channels: tuple[int, ...] = ()
    """convnet: units of each block; at least one block."""
    kernel: int = 3
    """convnet: height and width of the kernels."""
    pool_size: int = 2
    """convnet: height and width of a pooling window; 1: no pooling."""
    pooling: Literal["max", "mean"] = "max"
    """convnet: what a window hands on."""
    activation: Literal["relu", "tanh", "gelu", "identity"] = "relu"
    """Non-linearity of the hidden units; identity gives a deep linear network."""
    bias: bool = True
    """Whether units have a bias (initially zero)."""
    init: Literal["he", "glorot", "lecun"] = "he"
    """Gaussian init with variance 2/fan_in (he), 2/(fan_in+fan_out) (glorot) or 1/fan_in (lecun)."""
    init_scale: float = 1.0
    """Factor on the standard deviation of the initial weights."""


class ObjectiveSpec(_Section, frozen=True):
    """What training minimises: mean data loss + l2/2 * |theta|^2, biases included."""

    loss: Literal["auto", "cross_entropy", "squared_error"] = "auto"
    """auto: cross_entropy for classification, squared_error for regression."""
    l2: float = 0.0
    """Coefficient of the L2 term, part of the loss that landscapes show."""


class OptimizerSpec(_Section, frozen=True):
    """The update rule."""

    name: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    """sgd, momentum (heavy ball), adam, adamw (adam with decoupled decay)."""
    learning_rate: float = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    momentum: float = 0.9
    """Heavy-ball coefficient of momentum."""
    beta1: float = 0.9
    """Decay of the first moment of adam and adamw."""
    beta2: float = 0.999
    """Decay of the second moment of adam and adamw."""
    epsilon: float = 1e-8
    """Added to the root of the second moment of adam and adamw."""
    weight_decay: float = 0.0
    """Decoupled decay of sgd, momentum and adamw: theta -= learning_rate * weight_decay * theta."""


class ScheduleSpec(_Section, frozen=True):
    """The learning rate's factor as a function of the step."""

    kind: Literal["constant", "cosine", "warmup_cosine", "step"] = "constant"
    """constant; cosine to final_fraction; linear warmup, then cosine; factor at each boundary."""
    warmup_steps: int = 0
    """Steps of linear warmup from 0 (warmup_cosine)."""
    final_fraction: float = 0.0
    """Factor at the last step (cosine, warmup_cosine)."""
    boundaries: tuple[int, ...] = ()
    """Steps after which the rate is multiplied by `factor` (step)."""
    factor: float = 0.1
    """Factor at each boundary (step)."""


class TrainSpec(_Section, frozen=True):
    """How long, and on how many examples at a time."""

    num_steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 64
    """Examples a step, without replacement within an epoch; an incomplete last batch is dropped. 0: full batch."""


class CheckpointSpec(_Section, frozen=True):
    """At which steps the whole population is stored and measured. Step 0 and the last step always are."""

    schedule: Literal["linear", "log", "list"] = "linear"
    """Evenly spaced, evenly spaced in log(1 + step), or the explicit `steps`."""
    num: int = 11
    """Number of checkpoints, first and last included (linear, log; equal steps after rounding are merged)."""
    steps: tuple[int, ...] = ()
    """Explicit steps (list)."""


class SeedSpec(_Section, frozen=True):
    """Which replicas are trained, and what differs between them."""

    num: int | None = None
    """Train the seeds 0 .. num-1 (default 16)."""
    ids: tuple[int, ...] | None = None
    """Train exactly these seeds instead, in this order."""
    vary: Literal["init", "order", "both"] = "both"
    """What a seed draws for itself: its init, its order of examples, or both; the rest comes from `parent`."""
    parent: int = 0
    """The seed whose init or order the replicas share when `vary` is order or init."""
    fork_step: int = 0
    """With vary = order: follow the parent's order up to this step, then each seed's own (Frankle et al. 2020)."""
    root: int = 0
    """Root key of the whole experiment: another root is an independent repetition."""


class EngineSpec(_Section, frozen=True):
    """What decides the last bits of the result without changing the mathematics."""

    block_width: int = 0
    """Seeds trained in one vmap, on one device. 0: chosen from the parameter count, and recorded."""
    precision: Literal["default", "high", "highest"] = "highest"
    """Matmul precision on accelerators: highest is float32, default may be TF32 or bfloat16. CPUs use float32."""


class Spec(_Section, frozen=True):
    """One experiment: one spec x all its seeds is a run; `sweep` makes a grid of runs."""

    name: str = "run"
    """Name of the experiment and of its folder below results/."""
    question: str = ""
    """The question that the experiment answers, shown at the top of the report."""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    train: TrainSpec = TrainSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    seeds: SeedSpec = SeedSpec()
    engine: EngineSpec = EngineSpec()
    sweep: dict[str, tuple[SweepValue, ...]] = {}
    """Field (e.g. optimizer.learning_rate) -> values; the runs are the product of all."""


# (section, field, the field that decides, its values for which the first means something); elsewhere it is refused.
_OPTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("data", "path", "name", ("idx", "npz", "openml")),
    ("data", "dataset", "name", ("openml",)),
    ("data", "version", "name", ("openml",)),
    ("data", "num_examples", "name", ("idx", "npz", "openml", "xor", "spirals", "moons", "teacher", "random_labels")),
    ("data", "num_features", "name", ("xor", "teacher", "random_labels")),
    ("data", "num_classes", "name", ("spirals", "teacher", "random_labels")),
    ("data", "noise", "name", ("xor", "spirals", "moons", "teacher")),
    ("data", "teacher_hidden", "name", ("teacher",)),
    ("data", "seed", "name", ("xor", "spirals", "moons", "teacher", "random_labels")),
    ("model", "channels", "kind", ("convnet",)),
    ("model", "kernel", "kind", ("convnet",)),
    ("model", "pool_size", "kind", ("convnet",)),
    ("model", "pooling", "kind", ("convnet",)),
    ("optimizer", "momentum", "name", ("momentum",)),
    ("optimizer", "beta1", "name", ("adam", "adamw")),
    ("optimizer", "beta2", "name", ("adam", "adamw")),
    ("optimizer", "epsilon", "name", ("adam", "adamw")),
    ("optimizer", "weight_decay", "name", ("sgd", "momentum", "adamw")),
    ("schedule", "warmup_steps", "kind", ("warmup_cosine",)),
    ("schedule", "final_fraction", "kind", ("cosine", "warmup_cosine")),
    ("schedule", "factor", "kind", ("step",)),
)


def load(path: str | Path) -> Spec:
    """Read and check a spec file.

    Args:
        path: a TOML file.

    Returns:
        The complete, normalised spec.

    Raises:
        SpecError: the file is missing or is not TOML, or `parse` refuses what it says.
    """
    return normalise(read(path))


def read(path: str | Path) -> Spec:
    """Read a spec file as it stands; `name` defaults to the file's.

    Raises:
        SpecError: the file is missing or is not TOML, a key is unknown, or a type is wrong.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError:
        raise SpecError(f"there is no spec file {str(path)!r}; examples are in runs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read as a spec: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # of arrays in arrays in ..
        raise SpecError(f"{path} is not valid TOML: {error}") from error
    try:
        return _convert({"name": path.stem, **tree})
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def parse(tree: dict[str, Any]) -> Spec:
    """Turn a nested dict (as TOML gives it) into a complete, checked, normalised spec.

    Raises:
        SpecError: unknown key (with the nearest valid one), wrong type, or a value out of range.
    """
    return normalise(_convert(tree))


def normalise(spec: Spec) -> Spec:
    """Check a spec, and fill in the number of seeds.

    Raises:
        SpecError: wrong type or a value out of range.
    """
    spec = _complete(_convert(to_dict(spec)))  # constructors do not check types; converting does
    grid(spec)
    return spec


def to_dict(spec: Spec) -> dict[str, Any]:
    """The spec as nested builtins; unset options (None) are left out, as TOML has no null."""
    tree = msgspec.to_builtins(spec)
    return {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in tree.items()
    }


def to_toml(spec: Spec) -> str:
    """The spec as TOML text; `parse(tomllib.loads(to_toml(spec))) == spec`."""
    return tomli_w.dumps(to_dict(spec))


def difference(old: Spec, new: Spec) -> list[str]:
    """One line `field: old -> new` for every field that differs."""
    a, b = _flatten(to_dict(old)), _flatten(to_dict(new))
    return [f"{k}: {a.get(k, 'unset')!r} -> {b.get(k, 'unset')!r}" for k in {**a, **b} if a.get(k) != b.get(k)]


def seed_ids(spec: Spec) -> tuple[int, ...]:
    """The seeds of a run, in order: `seeds.ids`, or 0 .. `seeds.num`-1."""
    if spec.seeds.ids is not None:
        return spec.seeds.ids
    return tuple(range(16 if spec.seeds.num is None else spec.seeds.num))


def checkpoint_steps(spec: Spec) -> tuple[int, ...]:
    """Strictly increasing steps at which the population is stored; 0, the fork and the last step are always in."""
    last, c = spec.train.num_steps, spec.checkpoints
    if c.schedule == "list":
        steps = set(c.steps)
    elif c.schedule == "linear":
        steps = {round(last * i / (c.num - 1)) for i in range(c.num)}
    else:
        steps = {round(math.expm1(math.log1p(last) * i / (c.num - 1))) for i in range(c.num)}
    return tuple(sorted(steps | {0, spec.seeds.fork_step, last}))


class Point(msgspec.Struct, frozen=True):
    """One point of a sweep: the values that were swept, and the spec that they give."""

    values: dict[str, Any]
    spec: Spec

    @property
    def folder(self) -> str:
        """Folder name made of the swept values, e.g. `learning_rate=0.1,hidden=32-32`."""
        leaves = [key.rsplit(".", 1)[-1] for key in self.values]
        parts = []
        for (key, value), leaf in zip(self.values.items(), leaves, strict=True):
            text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            name = key if leaves.count(leaf) > 1 else leaf
            parts.append(f"{name}={re.sub(r'[^A-Za-z0-9_.+-]', '_', text)}")
        return ",".join(parts)


def grid(spec: Spec) -> list[Point]:
    """All points of the spec's sweep, last field fastest; one point with no values when nothing is swept.

    Raises:
        SpecError: a swept field does not exist or refuses a value, or folder names are too long or the same.
    """
    points: list[dict[str, Any]] = [{}]
    fields = _flatten(msgspec.to_builtins(Spec(sweep={})))
    for key, values in spec.sweep.items():
        _require(
            key in fields and "." in key,
            f"sweep: there is no field {key!r}{_nearest(key, [f for f in fields if '.' in f])}",
        )
        _require(len(values) > 0, f"sweep.{key} is empty; give at least one value")
        points = [{**point, key: value} for point in points for value in values]
    result = []
    for values in points:
        tree = to_dict(msgspec.structs.replace(spec, sweep={}))
        for key, value in values.items():
            section, field = key.split(".")
            tree[section][field] = value
        for swept, other in (("ids", "num"), ("num", "ids")):
            if f"seeds.{swept}" in values and f"seeds.{other}" not in values:
                tree["seeds"].pop(other, None)
        result.append(Point(values, _complete(_convert(tree))))
    longest = max((point.folder for point in result), key=len)
    _require(len(longest) <= 200, f"sweep: the folder name {longest!r} is too long: sweep fewer fields, or in steps")
    repeated = sorted(folder for folder, count in Counter(point.folder for point in result).items() if count > 1)
    _require(not repeated, f"sweep: these points share a folder name: {repeated}; remove the repeated values")
    return result


def _convert(tree: dict[str, Any]) -> Spec:
    if isinstance(sweep := tree.get("sweep"), dict):  # TOML reads optimizer.learning_rate without quotes as two keys
        tree = {**tree, "sweep": _flatten(sweep)}
    try:
        return msgspec.convert(tree, Spec)
    except msgspec.ValidationError as error:
        raise SpecError(_explain(str(error), tree)) from None


def _complete(spec: Spec) -> Spec:
    """Check the values, and fill in the number of seeds."""
    _check(spec)
    return msgspec.structs.replace(spec, seeds=msgspec.structs.replace(spec.seeds, num=len(seed_ids(spec))))


def _check(spec: Spec) -> None:
    """Raise SpecError at the first field whose value cannot be trained."""
    _require(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{,99}", spec.name) is not None and ".." not in spec.name,
        f"name = {spec.name!r} names a folder: use at most 100 letters, digits, '_', '-', '+', '.', "
        "no '/', '..' or absolute path",
    )
    for field, text in (
        ("question", spec.question),
        ("data.path", spec.data.path),
        ("data.dataset", spec.data.dataset),
    ):
        _require(
            not re.search("[\ud800-\udfff]", text),
            f"{field} = {text!r} is not Unicode: text that UTF-8 can hold is expected",
        )
    for section, field, chooser, names in _OPTIONS:
        record, default = getattr(spec, section), getattr(Spec(), section)
        value, chosen = getattr(record, field), getattr(record, chooser)
        _require(
            value == getattr(default, field) or chosen in names,
            f"{section}.{field} = {value!r} does not apply to {section}.{chooser} = {chosen!r}, only to: "
            f"{', '.join(names)}",
        )
    _check_data(spec.data)
    m, o, t, c, s = spec.model, spec.optimizer, spec.train, spec.checkpoints, spec.seeds
    for field, sizes in (("hidden", m.hidden), ("channels", m.channels)):
        _require(all(w >= 1 for w in sizes), f"model.{field} = {list(sizes)}: every layer needs at least 1 unit")
    _require(m.kind == "mlp" or len(m.channels) > 0, "model.kind = 'convnet' needs model.channels: at least one block")
    for field in ("kernel", "pool_size"):
        _range(f"model.{field}", getattr(m, field), 1, 2**10)
    _range("model.init_scale", m.init_scale, TINY, HUGE)
    _range("objective.l2", spec.objective.l2, 0, HUGE)
    _range("optimizer.learning_rate", o.learning_rate, TINY, HUGE)
    for field in ("momentum", "beta1", "beta2"):
        _range(f"optimizer.{field}", getattr(o, field), 0, BELOW_ONE)
    _range("optimizer.epsilon", o.epsilon, TINY, HUGE)
    _range("optimizer.weight_decay", o.weight_decay, 0, HUGE)
    _range("train.num_steps", t.num_steps, 1, 2**31 - 1)
    _range("train.batch_size", t.batch_size, 0, 2**31 - 1)
    h = spec.schedule
    _range("schedule.warmup_steps", h.warmup_steps, 0, t.num_steps - 1)
    _range("schedule.final_fraction", h.final_fraction, 0, 1)
    _range("schedule.factor", h.factor, TINY, HUGE)
    _require(
        list(h.boundaries) == sorted(set(h.boundaries)) and all(0 < b < t.num_steps for b in h.boundaries),
        f"schedule.boundaries = {list(h.boundaries)}: strictly increasing steps inside (0, {t.num_steps}) are expected",
    )
    _require(
        (h.kind == "step") == bool(h.boundaries),
        f"schedule.kind = {h.kind!r} with schedule.boundaries = {list(h.boundaries)}: "
        "'step' needs boundaries, the other kinds take none",
    )
    _range("checkpoints.num", c.num, 2, 10**6)
    _require(
        (c.schedule == "list") == bool(c.steps),
        f"checkpoints.schedule = {c.schedule!r} with checkpoints.steps = {list(c.steps)}: "
        "'list' needs steps, the other schedules take none",
    )
    _require(
        len(set(c.steps)) == len(c.steps) and all(0 <= step <= t.num_steps for step in c.steps),
        f"checkpoints.steps = {list(c.steps)}: distinct steps in [0, train.num_steps = {t.num_steps}] are expected",
    )
    _check_seeds(s, t.num_steps)
    _range("engine.block_width", spec.engine.block_width, 0, 2**20)


def _check_data(d: DataSpec) -> None:
    _require(d.path != "" or d.name not in ("idx", "npz"), f"data.name = {d.name!r} needs data.path")
    _require(d.dataset != "" or d.name != "openml", "data.name = 'openml' needs data.dataset, e.g. 'mnist_784'")
    _range("data.version", d.version, 1, 10**6)
    _range("data.test_fraction", d.test_fraction, 0, 1, open_low=True, open_high=True)
    _range("data.split_seed", d.split_seed, 0, MAX_SEED)
    _range("data.seed", d.seed, 0, MAX_SEED)
    _range("data.num_examples", d.num_examples, 4, 10**9)
    _range("data.num_features", d.num_features, 1, 10**6)
    _range("data.noise", d.noise, 0, HUGE)
    low = {"teacher": 0}.get(d.name, 2)
    _range("data.num_classes", d.num_classes, low, 10**6)
    _require(d.num_classes != 1, "data.num_classes = 1: 0 (regression) or at least 2 are expected")
    _require(
        d.teacher_hidden is None or all(w >= 1 for w in d.teacher_hidden),
        f"data.teacher_hidden = {d.teacher_hidden}: every layer needs at least 1 unit",
    )


def _check_seeds(s: SeedSpec, num_steps: int) -> None:
    if s.num is not None:
        _range("seeds.num", s.num, 1, 10**7)
        _require(
            s.ids is None or s.num == len(s.ids),
            f"seeds.num = {s.num} but seeds.ids lists {len(s.ids or ())} seeds: give one of the two",
        )
    _require(s.ids != (), "seeds.ids is empty: at least one seed is expected")
    for seed in s.ids or ():
        _range("seeds.ids", seed, 0, MAX_SEED)
    repeated = sorted(seed for seed, count in Counter(s.ids or ()).items() if count > 1)
    _require(not repeated, f"seeds.ids repeats {repeated}: every seed is trained once")
    _range("seeds.parent", s.parent, 0, MAX_SEED)
    _range("seeds.root", s.root, 0, MAX_SEED)
    _range("seeds.fork_step", s.fork_step, 0, num_steps - 1)
    _require(
        s.fork_step == 0 or s.vary == "order",
        f"seeds.fork_step = {s.fork_step} needs seeds.vary = 'order' (all is shared before it), not {s.vary!r}",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def _range(
    field: str, value: float | None, low: float, high: float, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise SpecError unless value is None or a finite number between low and high."""
    if value is None:
        return
    inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    bounds = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
    _require(math.isfinite(value) and inside, f"{field} = {value} is out of range: a value in {bounds} is expected")


def _flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """{'a': {'b': 1}, 'c': 2} -> {'a.b': 1, 'c': 2}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key != "sweep":
            flat.update({f"{key}.{k}": v for k, v in value.items()})
        else:
            flat[key] = value
    return flat


def _nearest(key: str, valid: list[str]) -> str:
    """`; did you mean 'x'?` or the list of valid keys."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(valid)}"


def _explain(message: str, tree: dict[str, Any]) -> str:
    """Rewrite msgspec's message: field path as the user writes it, the value received, the nearest valid key."""
    path = re.sub(r"\[.*?\]", "", m.group(1)) if (m := re.search(r"`\$\.?([^`]*)`$", message)) else ""
    text = message.split(" - at ")[0]
    if unknown := re.search(r"unknown field `([^`]*)`", text):
        valid = list(Spec.__struct_fields__)
        for part in filter(None, path.split(".")):
            valid = list(type(getattr(Spec(), part)).__struct_fields__)
        where = f"section [{path}]" if path else "the top level"
        return f"unknown key {unknown.group(1)!r} in {where}{_nearest(unknown.group(1), valid)}"
    value: Any = tree
    section, _, field = path.partition(".")
    if field and "Invalid enum value" in text:
        choices = list(get_args(get_type_hints(type(getattr(Spec(), section)))[field]))
        return f"{path} = {tree[section][field]!r} is unknown{_nearest(str(tree[section][field]), choices)}"
    for part in filter(None, path.split(".")):
        value = value.get(part) if isinstance(value, dict) else None
    text = text.replace("`object`", "`table`")  # as TOML calls it
    return f"{path or 'the spec'} = {value!r}: {text[0].lower() + text[1:]}"
