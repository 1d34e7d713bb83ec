"""All that the section computes, of as many seeds and examples as a report can wait for."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from analysis.report.section import Tell
from analysis.representation import (
    ClassDistances,
    Drawings,
    RestartMap,
    Separability,
    class_distances,
    drawings,
    features,
    probe_layers,
    restart_map,
    shape_distances,
)
from wspace.run import Run

MOST_SEEDS, MOST_PROBED, FEWEST_PROBED = 64, 12, 6
MOST_EXAMPLES, MOST_DRAWN, FEWEST_DRAWN = 500, 200, 4
MOST_TRAIN, FEWEST_TRAIN, MOST_TEST = 2000, 500, 2000
MOST_LAYERS = 5  # drawn, and told one by one
PERPLEXITY = 30
PROBE_WORK = 3e8  # of all probes, multiplications in one step: a quarter of a minute at most
MAP_WORK = 5e9  # of all pairs of the map, networks² units³: a few seconds
MOST_VALUES = 2**26  # of features held at once: a quarter of a gigabyte
SAME = 1e-6  # radians: rounding alone leaves less
KINDS = ("trained", "untrained", "shuffled")


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that the section computes; what a run does not allow is None or empty, with the reason in words in `missing`.

    Attributes:
        ids: seeds of the map and of the distances of classes; the first of them is drawn, and probes take the first ones.
        names: of all layers, inputs first.
        shown: positions of the layers that are drawn and told one by one.
        last: position of the last hidden layer, or of the outputs without one.
        moved: whether untrained networks are there to compare with.
        split: whose examples are looked at.
        labels: of these examples, or their first target.
        target: what `labels` are called in prose; of a classifier it is not read.
        class_names: of all classes; empty for a regression.
        probes: kind -> readouts of all layers.
        classes: kind -> how far apart the classes are in all layers; of a classifier.
        drawn: the layers `shown` of the first seed.
        map: at the layer `last`.
        map_units: of that layer.
        missing: what is left out -> why.
    """

    ids: list[int]
    names: list[str]
    shown: list[int]
    last: int
    moved: bool
    split: str
    labels: np.ndarray
    target: str
    class_names: tuple[str, ...]
    probes: dict[str, Separability]
    classes: dict[str, ClassDistances]
    drawn: Drawings | None
    map: RestartMap | None
    map_units: int
    missing: dict[str, str]

    @property
    def layer(self) -> str:
        """What the layer at `last` is called in prose."""
        return "last hidden layer" if len(self.names) > 2 else "outputs"

    @property
    def num_probed(self) -> int:
        """Seeds whose layers are read out."""
        return self.probes["trained"].score.shape[1] if self.probes else 0


def measure(run: Run, rng: np.random.Generator, tell: Tell) -> Measured:
    """Everything, of as many seeds and examples as can be afforded."""
    split = "test" if len(run.data.x_test) else "train"
    x, y = (getattr(run.data, f"{name}_{split}") for name in ("x", "y"))
    rows = np.sort(rng.permutation(len(x))[:MOST_EXAMPLES])
    x, y, widths = x[rows], y[rows], _widths(run)
    ids = run.seeds[run.converged()].tolist()
    ids = ids[: int(np.clip(MOST_VALUES // (2 * len(x) * sum(widths)), 1, MOST_SEEDS))]
    params, before = run.params(ids), run.params(ids, 0)
    moved = any(np.any(a != b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True))
    layers = {"trained": features(run.model, params, x)}
    if moved:
        layers["untrained"] = features(run.model, before, x)
    num = len(widths)
    last = max(1, num - 2)
    shown = _shown(num, last)

    why: dict[str, str] = {}
    probes, why["probes"] = _probes(run, ids, widths, moved, rng, tell)
    classes, why["classes"] = _classes(layers, y, tell) if run.task == "classification" else ({}, "")
    drawn, why["drawings"] = _drawings([layers["trained"][k][0] for k in shown], rng, tell)
    shape, why["map"] = _map([kind[last] for kind in layers.values()], tell)
    return Measured(
        ids=ids,
        names=["inputs", *(f"layer {k}" for k in range(1, num - 1)), "outputs"],
        shown=shown,
        last=last,
        moved=moved,
        split=split,
        labels=y.reshape(len(y), -1)[:, 0],
        target=("first target" if y[:1].size > 1 else "target")
        + (", standardised" if run.spec.data.standardize else ""),
        class_names=run.data.class_names,
        probes=probes,
        classes=classes,
        drawn=drawn,
        map=shape,
        map_units=widths[last],
        missing={name: reason for name, reason in why.items() if reason},
    )


def _widths(run: Run) -> list[int]:
    """Numbers that each layer hands on for one example, inputs first."""
    shape = run.data.x_train.shape[1:]
    one = jax.eval_shape(
        lambda key: run.model.activations(run.model.init(key), np.zeros((1, *shape), np.float32)), jax.random.key(0)
    )
    return [int(np.prod(shape)), *(int(np.prod(layer.shape)) for layer in one)]


def _shown(num: int, last: int) -> list[int]:
    """Layers evenly from inputs to outputs, the last hidden one among them."""
    shown = np.unique(np.linspace(0, num - 1, min(num, MOST_LAYERS)).round().astype(int)).tolist()
    if last not in shown:
        shown[-2] = last
    return shown


def _probes(
    run: Run, ids: list[int], widths: list[int], moved: bool, rng: np.random.Generator, tell: Tell
) -> tuple[dict[str, Separability], str]:
    """Readouts by kind; or none and the reason, as in the functions below."""
    if len(run.data.x_test) == 0:
        return {}, "there are no test examples to score a readout on"
    asked = [run.data.y_train, *([run.data.y_test] if run.task == "regression" else [])]
    if any(np.all(y == y[0]) for y in asked):
        return {}, "the examples ask all for the same"
    tell("reading out every layer")
    num, num_train = _affordable(run, widths, len(ids))
    trained, untrained = (run.params(ids[:num], k) for k in (-1, 0))
    probed = probe_layers(
        run.model, trained, run.data, untrained=untrained if moved else None, most_train=num_train, most_test=MOST_TEST,
        rng=rng,
    )  # fmt: skip
    return {kind: one for kind in KINDS if (one := getattr(probed, kind)) is not None}, ""


def _affordable(run: Run, widths: list[int], num: int) -> tuple[int, int]:
    """Seeds to probe, and training examples for each probe, that PROBE_WORK allows."""
    num_train = min(len(run.data.x_train), MOST_TRAIN)
    if run.task == "classification":
        one = len(KINDS) * sum(widths) * max(2, run.data.num_classes)
    else:
        one = len(KINDS) * sum(width * min(width, num_train) / 8 for width in widths)
    fewest = min(num, FEWEST_PROBED)
    num_train = min(num_train, max(FEWEST_TRAIN, int(PROBE_WORK / (one * fewest))))
    return int(np.clip(PROBE_WORK / (one * num_train), fewest, min(num, MOST_PROBED))), num_train


def _classes(
    layers: dict[str, tuple[np.ndarray, ...]], y: np.ndarray, tell: Tell
) -> tuple[dict[str, ClassDistances], str]:
    enough = np.isin(y, np.flatnonzero(np.bincount(y) >= 2))
    if len(np.unique(y[enough])) < 2:
        return {}, "fewer than two classes have two or more of these examples"
    tell("distances of classes")
    return {kind: class_distances([layer[:, enough] for layer in some], y[enough]) for kind, some in layers.items()}, ""


def _drawings(layers: Sequence[np.ndarray], rng: np.random.Generator, tell: Tell) -> tuple[Drawings | None, str]:
    num = len(layers[0])
    if num < FEWEST_DRAWN:
        return None, "there are too few examples to draw"
    tell("drawing the layers of one restart")
    perplexity = min(PERPLEXITY, (min(num, MOST_DRAWN) - 1) // 3)
    return drawings(layers, perplexity=perplexity, most_examples=MOST_DRAWN, rng=rng), ""


def _map(kinds: Sequence[np.ndarray], tell: Tell) -> tuple[RestartMap | None, str]:
    """At one layer, of the first of trained and, if there are any, untrained networks."""
    tell("the map of restarts")
    most = max(2, int(np.sqrt(MAP_WORK / min(kinds[0].shape[1:]) ** 3)) // 2)
    kinds = [layer[:most] for layer in kinds]
    networks = np.concatenate(kinds)
    if len(kinds[0]) < 2:
        return None, "it takes at least two restarts"
    if len(networks) < 3 or networks.shape[1] < 3:
        return None, "it takes at least three networks and three examples"
    if any(np.all(layer == layer[0]) for layer in networks):
        return None, "at least one network hands on the same for all examples there"
    if shape_distances(networks).max() < SAME:
        return None, "all networks represent the examples in the same way there, but for rotations and scales"
    return restart_map(*kinds), ""
