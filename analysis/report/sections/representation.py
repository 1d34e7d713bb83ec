"""Section: what every layer makes of the examples, and how differently restarts do it."""

import dataclasses
import itertools

import jax
import numpy as np

from analysis.figures import representation as figures
from analysis.figures import style
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.representation import (
    ClassDistances,
    Drawings,
    Probed,
    RestartMap,
    class_distances,
    drawings,
    features,
    over_seeds,
    probe_layers,
    restart_map,
    shape_distances,
)
from analysis.statistics import Estimate, median, median_over_pairs, pair_values, ratio_over_pairs
from wspace.run import Run

MOST_SEEDS, MOST_PROBED, FEWEST_PROBED = 64, 12, 4
MOST_EXAMPLES, MOST_DRAWN, FEWEST_DRAWN = 500, 200, 4
MOST_TRAIN, FEWEST_TRAIN, MOST_TEST = 2000, 500, 2000
MOST_LAYERS = 5  # drawn, and told one by one
PERPLEXITY = 30
PROBE_WORK = 3e8  # of all probes, multiplications in one step: a quarter of a minute at most
MAP_WORK = 5e9  # of all pairs of the map, networks² units³: a few seconds
MOST_VALUES = 2**26  # of features held at once: a quarter of a gigabyte
SAME = 1e-6  # radians: rounding alone leaves less
KINDS = {"trained": style.END, "untrained": style.INIT, "shuffled": style.TRAVELLED}
LABELS = {"trained": "trained", "untrained": "untrained", "shuffled": "trained, labels shuffled"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that the section computes; what a run does not allow is None, with the reason in words in `missing`.

    Attributes:
        ids: seeds of the map and of the distances of classes; the first of them is drawn, and probes take the first ones.
        names: of all layers, inputs first.
        shown: positions of the layers that are drawn and told one by one.
        last: position of the last hidden layer, or of the outputs without one.
        moved: whether untrained networks are there to compare with.
        examples: how many, of the split that is looked at.
        labels: of those that are drawn, or their first target.
        missing: what is left out -> why.
    """

    ids: list[int]
    names: list[str]
    shown: list[int]
    last: int
    moved: bool
    split: str
    examples: int
    probed: Probed | None
    num_probed: int
    trained: ClassDistances | None
    untrained: ClassDistances | None
    drawn: Drawings | None
    labels: np.ndarray
    map: RestartMap | None
    map_units: int
    missing: dict[str, str]


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Probes with their controls, distances of classes, drawings of the layers of one restart, and a map of restarts."""
    found = measure(run, rng, tell)
    findings, classes = _findings(run, found, rng), run.task == "classification"
    return Content(
        findings=findings,
        headline=_headline(findings, found, classes),
        says=tuple(_says(findings, found, classes)),
        shows=_shows(found, classes),
        reads=_reads(found, classes),
        limits=_limits(found, classes),
        pictures=tuple(_pictures(run, findings, found, classes)),
    )


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
    layers = features(run.model, params, x)
    start = features(run.model, before, x) if moved else None
    num, last = len(layers), max(1, len(layers) - 2)
    names = ["inputs", *(f"layer {k}" for k in range(1, num - 1)), "outputs"]
    shown = np.unique(np.linspace(0, num - 1, min(num, MOST_LAYERS)).round().astype(int)).tolist()
    if last not in shown:
        shown[-2] = last
    missing = {}

    probed, num_probed = None, 0
    if why := _no_probes(run):
        missing["probes"] = why
    else:
        tell("reading out every layer")
        num_probed, num_train = _affordable(run, widths, len(ids))
        some, control = (run.params(ids[:num_probed], k) for k in (-1, 0))
        probed = probe_layers(
            run.model, some, run.data, untrained=control if moved else None, most_train=num_train, most_test=MOST_TEST,
            rng=rng,
        )  # fmt: skip

    trained = untrained = None
    if run.task == "classification":
        enough = np.isin(y, np.flatnonzero(np.bincount(y) >= 2))
        if len(np.unique(y[enough])) >= 2:
            tell("distances of classes")
            trained = class_distances([layer[:, enough] for layer in layers], y[enough])
            untrained = class_distances([layer[:, enough] for layer in start], y[enough]) if start else None
        else:
            missing["classes"] = "fewer than two classes have two or more of these examples"

    drawn, labels = None, np.zeros(0)
    if len(x) >= FEWEST_DRAWN:
        tell("drawing the layers of one restart")
        perplexity = min(PERPLEXITY, (min(len(x), MOST_DRAWN) - 1) // 3)
        drawn = drawings(
            [layers[k][0] for k in shown], perplexity=perplexity, most_examples=MOST_DRAWN, rng=rng
        )  # fmt: skip
        labels = (
            y[drawn.examples]
            if run.task == "classification"
            else y[drawn.examples].reshape(len(drawn.examples), -1)[:, 0]
        )
    else:
        missing["drawings"] = "there are too few examples to draw"

    tell("the map of restarts")
    num_map = max(2, int(np.sqrt(MAP_WORK / min(widths[last], len(x)) ** 3)) // 2)
    here, there = layers[last][:num_map], None if start is None else start[last][:num_map]
    shape, why = _map(here, there)
    if why:
        missing["map"] = why
    return Measured(
        ids, names, shown, last, moved, split, len(x), probed, num_probed, trained, untrained, drawn, labels, shape,
        widths[last], missing,
    )  # fmt: skip


def _widths(run: Run) -> list[int]:
    """Numbers that each layer hands on for one example, inputs first."""
    shape = run.data.x_train.shape[1:]
    one = jax.eval_shape(
        lambda key: run.model.activations(run.model.init(key), np.zeros((1, *shape), np.float32)), jax.random.key(0)
    )
    return [int(np.prod(shape)), *(int(np.prod(layer.shape)) for layer in one)]


def _affordable(run: Run, widths: list[int], num: int) -> tuple[int, int]:
    """Seeds to probe, and training examples for each probe, that PROBE_WORK allows."""
    num_train = min(len(run.data.x_train), MOST_TRAIN)
    kinds = len(KINDS)
    if run.task == "classification":
        one = kinds * sum(widths) * max(2, run.data.num_classes)
    else:
        one = kinds * sum(width * min(width, num_train) / 8 for width in widths)
    fewest = min(num, FEWEST_PROBED)
    num_train = min(num_train, max(FEWEST_TRAIN, int(PROBE_WORK / (one * fewest))))
    return int(np.clip(PROBE_WORK / (one * num_train), fewest, min(num, MOST_PROBED))), num_train


def _no_probes(run: Run) -> str | None:
    if len(run.data.x_test) == 0:
        return "there are no test examples to score a readout on"
    constant = lambda y: bool(np.all(y == y[0]))  # noqa: E731
    if constant(run.data.y_train) or (run.task == "regression" and constant(run.data.y_test)):
        return "the examples ask all for the same"
    return None


def _map(trained: np.ndarray, untrained: np.ndarray | None) -> tuple[RestartMap | None, str]:
    """The map, or the reason why there is none."""
    if len(trained) < 2:
        return None, "it takes at least two restarts"
    networks = [*trained, *(() if untrained is None else untrained)]
    if len(networks) < 3 or len(trained[0]) < 3:
        return None, "it takes at least three networks and three examples"
    if any(np.all(layer == layer[0]) for layer in networks):
        return None, "at least one network hands on the same for all examples there"
    if shape_distances(np.stack(networks)).max() < SAME:
        return None, "all networks represent the examples in the same way there, but for rotations and scales"
    return restart_map(trained, untrained), ""


def _findings(run: Run, found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(found.ids)
    findings = {
        "layers": finding([found.names[k] for k in found.shown]),
        "restarts": finding(num, n=num),
        "examples": finding(found.examples),
        "split": finding(found.split),
    }
    if found.probed is not None:
        findings |= _probe_findings(found, rng)
    if found.trained is not None:
        findings |= _class_findings(run, found, rng)
    if found.drawn is not None:
        drawn = found.drawn
        findings |= {
            "drawn_seed": finding(found.ids[0]),
            "drawn_examples": finding(len(drawn.examples)),
            "perplexity": finding(int(drawn.perplexity)),
            "neighbours": finding(drawn.num_neighbours),
        }
        for place, k in enumerate(found.shown):
            if np.all(np.isfinite(drawn.explained[place])):
                findings[f"explained_{k}"] = finding(float(drawn.explained[place].sum()), unit="share")
                findings[f"trust_{k}"] = finding(float(drawn.neighbours.trust[place]))
                findings[f"trust_principal_{k}"] = finding(float(drawn.principal.trust[place]))
            for name, one in (("principal", drawn.principal), ("neighbours", drawn.neighbours)):
                if np.isfinite(one.correlation[place]):
                    findings[f"correlation_{name}_{k}"] = finding(float(one.correlation[place]))
    if found.map is not None:
        findings |= _map_findings(found.map, found.map_units, rng)
    return findings


def _probe_findings(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    assert found.probed is not None
    probed, num = found.probed, found.num_probed
    classes = probed.trained.task == "classification"
    unit = "share" if classes else ""
    findings = {
        "seeds": finding(num, n=num),
        "num_train": finding(probed.trained.num_train),
        "num_test": finding(probed.trained.num_test),
        "l2": finding(probed.trained.l2),
        "chance": finding(float(probed.trained.chance), unit=unit),
    }
    for kind in KINDS:
        one = getattr(probed, kind)
        if one is not None:
            for k, estimate in enumerate(over_seeds(one.score, rng=rng, unit=unit).each):
                if estimate is not None:
                    findings[f"{kind}_{k}"] = finding(estimate)
    score, last = probed.trained.score, found.last
    middles = np.median(probed.shuffled.score, axis=1)
    findings["shuffled_least"] = finding(float(middles.min()), n=num, unit=unit)
    findings["shuffled_most"] = finding(float(middles.max()), n=num, unit=unit)
    findings["gain"] = finding(median(_less(score[last], score[0]), rng=rng, unit=unit))
    if probed.untrained is not None:
        before = probed.untrained.score
        findings["learnt"] = finding(median(_less(score[last], before[last]), rng=rng, unit=unit))
        findings["untrained_gain"] = finding(median(_less(before[last], before[0]), rng=rng, unit=unit))
    if classes:
        for name, one in (("example_error", probed.trained), ("untrained_error", probed.untrained)):
            if one is not None:
                likely = np.median(one.score[[0, last]], axis=1)
                error = float(np.sqrt(np.max(likely * (1 - likely)) / one.num_test))
                findings[name] = finding(error, unit="share")
    settled = np.concatenate([one.converged.ravel() for one in _kinds(probed).values()])
    findings["probes"] = finding(len(settled), n=num)
    findings["unsettled"] = finding(int(np.sum(~settled)), n=num)
    return findings


def _less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b, without what rounding leaves of equal shares."""
    return np.round(a - b, 12)


def _kinds(probed: Probed):
    kinds = {kind: getattr(probed, kind) for kind in KINDS}
    return {kind: one for kind, one in kinds.items() if one is not None}


def _class_findings(run: Run, found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    assert found.trained is not None
    trained = found.trained
    findings = {
        "classes": finding(len(trained.classes)),
        "class_examples": finding(trained.num_examples),
        "null": finding(float(trained.null), unit="share"),
    }
    for kind, one in (("trained", trained), ("untrained", found.untrained)):
        if one is not None:
            for k, estimate in enumerate(over_seeds(one.share, rng=rng, unit="share").each):
                if estimate is not None:
                    findings[f"share_{kind}_{k}"] = finding(estimate)
    pairs = list(itertools.combinations(range(len(trained.classes)), 2))
    middles = [float(np.median(trained.apart[found.last, :, c, d])) for c, d in pairs]
    c, d = pairs[int(np.argmin(middles))]
    values = trained.apart[found.last, :, c, d]
    if (
        np.all(np.isfinite(values))
        and np.all(np.isfinite(trained.share[found.last]))
        and np.isfinite(trained.apart[0, 0, c, d])
    ):
        names = [run.data.class_names[int(trained.classes[k])] for k in (c, d)]
        findings["nearest"] = finding(f"“{names[0]}” and “{names[1]}”")
        findings["nearest_apart"] = finding(median(values, rng=rng))
        findings["nearest_inputs"] = finding(float(trained.apart[0, 0, c, d]))
        if found.untrained is not None and np.all(np.isfinite(before := found.untrained.apart[found.last, :, c, d])):
            findings["nearest_untrained"] = finding(median(before, rng=rng))
    return findings


def _map_findings(shape: RestartMap, units: int, rng: np.random.Generator) -> dict[str, Finding]:
    rows = np.flatnonzero(shape.trained)
    num, others = len(rows), np.flatnonzero(~shape.trained)
    trained = shape.distance[np.ix_(rows, rows)]
    findings = {
        "map_seeds": finding(num, n=num),
        "map_units": finding(units),
        "distance_trained": finding(median_over_pairs(trained, rng=rng, unit="radians")),
        "map_explained": finding(float(shape.plane.explained.sum()), n=num, unit="share"),
        "stress": finding(round(float(shape.plane.stress), 9), n=num),
    }
    if len(others):
        untrained = shape.distance[np.ix_(others, others)]
        findings["distance_untrained"] = finding(median_over_pairs(untrained, rng=rng, unit="radians"))
        own = shape.distance[rows, others]
        findings["distance_own"] = finding(median(own, rng=rng, unit="radians"))
        if np.median(pair_values(untrained)) > SAME:
            findings["map_ratio"] = finding(ratio_over_pairs(trained, untrained, rng=rng))
    return findings


def _last(found: Measured) -> str:
    return "last hidden layer" if len(found.names) > 2 else "outputs"


def _headline(findings: dict[str, Finding], found: Measured, classes: bool) -> str:
    if found.probed is None:
        return ""
    text = (
        f"A linear readout of the {_last(found)} is right on {{trained_{found.last}}} of the test examples, one of the "
        "inputs on {trained_0:value}"
        if classes
        else f"A linear readout of the {_last(found)} reaches an R² of {{trained_{found.last}}} on test examples, one "
        "of the inputs {trained_0:value}"
    )
    if found.probed.untrained is not None:
        text += f", one of the same layer before training {'on ' if classes else ''}{{untrained_{found.last}:value}}"
    return text + " ({seeds:n} " + plural(found.num_probed, "seed", "seeds") + ")."


def _listed(findings: dict[str, Finding], found: Measured, prefix: str) -> str:
    """Values of the layers that are told one by one, in order; of the inputs, the same for all seeds, without interval."""
    values = [
        ("{" + f"{prefix}_{k}" + ("" if k else ":value") + "}") if f"{prefix}_{k}" in findings else "none"
        for k in found.shown
    ]
    return f"{', '.join(values[:-1])} and {values[-1]}"


def _side(item: Finding, error: float = 0.0) -> int:
    """Which side of zero its interval lies on, and farther than the choice of examples explains; 0 where that is open."""
    low, high = item["ci"] or (-1, 1)
    return 0 if abs(item["value"]) <= 2 * error else 1 if low > 0 else -1 if high < 0 else 0


def _says(findings: dict[str, Finding], found: Measured, classes: bool):
    if found.probed is None:
        yield f"Layers are not read out: {found.missing['probes']}."
    else:
        yield _readout_says(findings, found, classes)
        if found.probed.untrained is not None:
            yield _untrained_says(findings, found, classes)
        else:
            yield (
                "The restarts end with the weights that they started with, so there are no untrained networks to compare "
                "them with."
            )
        yield (
            "With the labels of the training examples shuffled, readouts "
            + ("are right on" if classes else "have an R² of")
            + " {shuffled_least:value} to {shuffled_most:value}, by layer: so much do readouts like these find where there "
            "is nothing to find."
            + (
                " Of all {probes} readouts, {unsettled} had not settled when their fit was stopped."
                if findings["unsettled"]["value"]
                else ""
            )
        )
    if found.trained is not None:
        yield from _classes_say(findings, found)
    elif classes:
        yield f"How far apart the classes are is not told: {found.missing['classes']}."
    if found.drawn is not None:
        yield _drawings_say(findings, found)
    else:
        yield f"No layer is drawn: {found.missing['drawings']}."
    if found.map is not None:
        yield _map_says(findings, found)
    else:
        yield f"There is no map of restarts: {found.missing['map']}."


def _readout_says(findings: dict[str, Finding], found: Measured, classes: bool) -> str:
    one, last, listed = found.num_probed == 1, _last(found), _listed(findings, found, "trained")
    text = (
        f"Layer by layer ({{layers}}), linear readouts are right on {listed} of the {{num_test}} test examples"
        if classes
        else f"Layer by layer ({{layers}}), linear readouts have an R² of {listed} on {{num_test}} test examples"
    ) + (" (one restart)" if one else " (medians of {seeds} restarts)")
    text += (
        "; always naming the most frequent class would be right on {chance:value}. "
        if classes
        else "; always naming the mean would have {chance:value} or less. "
    )
    error = findings["example_error"]["value"] if classes else 0.0
    difference = f"Between the {last} and the inputs, the difference is {{gain}}" + (
        " of the examples" if classes else ""
    )
    if error:
        difference += (
            ", beside a standard error of {example_error:value} that one such share has for the choice of examples"
        )
    side = _side(findings["gain"], error)
    if one:
        return text + difference + "."
    return (
        text
        + difference
        + (
            f": a linear readout finds more in the {last} than in the inputs."
            if side > 0
            else f": a linear readout finds less in the {last} than in the inputs."
            if side < 0
            else f": that does not show that a linear readout finds more in the {last} than in the inputs, or less."
        )
    )


def _untrained_says(findings: dict[str, Finding], found: Measured, classes: bool) -> str:
    error, last = findings["untrained_error"]["value"] if classes else 0.0, _last(found)
    text = f"Before training, the same networks reach {_listed(findings, found, 'untrained')}. "
    side = _side(findings["untrained_gain"], error)
    if side < 0:
        text += f"So a linear readout finds less in the {last} of networks that have not learnt than in the inputs. "
    elif side > 0:
        text += (
            f"So a linear readout finds more in the {last} even of networks that have not learnt than in the inputs. "
        )
    changed = f"At the {last}, training changes the score by {{learnt}}"
    return text + changed + (" of the examples." if classes else ".")


def _classes_say(findings: dict[str, Finding], found: Measured):
    assert found.trained is not None
    gaps = not all(f"share_trained_{k}" in findings for k in found.shown)
    text = (
        f"Of the variance between {{class_examples}} {{split}} examples, the share that lies between the {{classes}} "
        f"classes is, layer by layer, {_listed(findings, found, 'share_trained')}; for labels at random it is "
        "{null:value}." + (" A layer that hands on the same for all examples has none." if gaps else "")
    )
    if np.all(np.diff(found.trained.share, axis=0) > 0):
        text += (
            " In every restart it grows" if len(found.ids) > 1 else " It grows"
        ) + " from each layer to the next: examples of a class draw together."
    if found.untrained is not None:
        text += f" Before training it is {_listed(findings, found, 'share_untrained')}."
    yield text
    if "nearest" in findings:
        yield (
            f"In the {_last(found)}, the two classes that stay closest are {{nearest}}: their means are {{nearest_apart}} "
            "times as far apart as their examples spread along the line between them; in the inputs {nearest_inputs:value} "
            "times" + (", before training {nearest_untrained} times." if "nearest_untrained" in findings else ".")
        )


def _drawings_say(findings: dict[str, Finding], found: Measured) -> str:
    last, known = _last(found), [k for k in found.shown if f"explained_{k}" in findings]
    if not known:
        return "In the restart that is drawn, every layer hands on the same for all examples: there is nothing to see."
    text = (
        "Seed {drawn_seed}, drawn with {drawn_examples} {split} examples: two principal components keep "
        f"{_listed(findings, found, 'explained')} of the variance, layer by layer. t-SNE (perplexity {{perplexity}}) has a "
        f"trustworthiness of {_listed(findings, found, 'trust')}"
    )
    names = {name: f"correlation_{name}_{found.last}" for name in ("principal", "neighbours")}
    if names["principal"] in findings and names["neighbours"] in findings:
        text += (
            f". At the {last}, distances in the plane and in the layer have a rank correlation of "
            f"{{{names['principal']}:value}} for principal components and {{{names['neighbours']}:value}} for t-SNE"
        )
    if len(known) < len(found.shown):
        text += " (none: that layer hands on the same for all examples)"
    return text + "."


def _map_says(findings: dict[str, Finding], found: Measured) -> str:
    text = (
        f"At the {_last(found)}, the representations of two restarts are {{distance_trained}} apart, whatever their "
        "rotation and scale"
    )
    if "distance_untrained" in findings:
        text += (
            "; those of two untrained networks {distance_untrained}, and a restart is {distance_own} from its own start"
        )
    text += ". "
    if "map_ratio" in findings and (ci := findings["map_ratio"]["ci"]):
        text += (
            "So training makes restarts more alike than they started ({map_ratio} times the distance). "
            if ci[1] < 1
            else "So training makes restarts less alike than they started ({map_ratio} times the distance). "
            if ci[0] > 1
            else "These seeds do not tell whether training makes restarts more alike ({map_ratio} times the distance). "
        )
    return text + (
        "The map in the plane keeps {map_explained:value} of the squared distances and its stress is {stress:value}, where "
        "zero would be a faithful map."
    )


def _shows(found: Measured, classes: bool) -> str:
    text = "What every layer hands on, inputs and outputs included. "
    if found.probed is not None:
        text += (
            "Linear readouts "
            + ("(logistic regressions)" if classes else "(ridge regressions)")
            + " are fitted to each layer on {num_train} train examples and scored on {num_test} test examples, for {seeds} "
            + plural(found.num_probed, "restart", "restarts")
            + (", for the same networks before training" if found.probed.untrained is not None else "")
            + ", and with shuffled labels. "
        )
    if found.trained is not None:
        text += "How far apart the classes are is measured on {class_examples} {split} examples and {restarts} " + (
            plural(len(found.ids), "restart", "restarts") + ". "
        )
    if found.drawn is not None:
        text += "The layers of the first restart are drawn by principal components and by t-SNE. "
    if found.map is not None:
        text += (
            "The map places {map_seeds} restarts"
            + (" and the networks that they were before training" if found.moved else "")
            + " by how differently their representations of {examples} {split} examples are shaped."
        )
    return text.strip()


def _reads(found: Measured, classes: bool) -> str:
    text = ""
    if found.probed is not None:
        text += (
            "Layers change what a linear readout can find, and can only lose what the inputs hold: a readout that does "
            "better in a later layer says that the task was unfolded there, not that something was added. "
        )
    if found.moved:
        text += "Untrained networks show what depth and width do without learning. "
    if found.trained is not None:
        text += "The share of variance between classes grows as examples of a class draw together. "
    if found.drawn is not None:
        text += (
            "In the drawings follow "
            + ("a class" if classes else "a colour")
            + " from panel to panel. Principal components are a plain shadow, and the share of variance says how much of "
            "the layer it holds; t-SNE keeps neighbours, and its trustworthiness (one is perfect) says how well. "
        )
    if found.map is not None:
        text += "On the map, points that lie close are networks whose layers hold the same pattern of examples. "
    return text.strip()


def _limits(found: Measured, classes: bool) -> str:
    text = ""
    if found.probed is not None:
        text += (
            "A readout tells what is there, not what the network uses, and its score depends on how strongly it is "
            "regularised ({l2:value} here), on how many examples it is fitted to, and on the width of the layer. "
        )
    text += "Intervals come from resampling seeds: they know nothing of other examples. "
    if found.drawn is not None:
        text += (
            "In t-SNE, sizes of groups and distances between them mean little, and another perplexity gives another "
            "drawing; what overlaps in two dimensions may be apart in more. One restart is drawn. "
        )
    if found.map is not None:
        text += (
            "Distances on the map are distorted as its stress says. Representations are the nearer to each other the fewer "
            "the examples are beside the units ({examples} examples and {map_units} "
            + plural(found.map_units, "unit", "units")
            + " here), so untrained networks are the reference and not zero. "
        )
    return text.strip()


def _pictures(run: Run, findings: dict[str, Finding], found: Measured, classes: bool):
    names = [found.names[k] for k in found.shown]
    if found.drawn is not None:
        drawn, trust = found.drawn, found.drawn.neighbours.trust
        ways = {
            "pca": (drawn.principal, "Principal components", [_shares(two) for two in drawn.explained]),
            "tsne": (
                drawn.neighbours,
                f"t-SNE, perplexity {drawn.perplexity:g}",
                [f"trustworthiness {value:.3f}" if np.isfinite(value) else "" for value in trust],
            ),
        }
        which = "Colour and marker: the class" if classes else "Colour: the target"
        for way, (one, title, notes) in ways.items():
            yield Picture(
                f"representation-{way}",
                figures.by_class(one.coordinates, names, notes, found.labels, run.data.class_names, title)
                if classes
                else figures.by_target(one.coordinates, names, notes, found.labels, "target", title),
                (
                    "The same {drawn_examples} {split} examples as each layer of seed {drawn_seed} has them, in the plane "
                    "of their two principal components; below: the shares of variance along the two axes. "
                    if way == "pca"
                    else "The same by t-SNE, which keeps neighbours; below: its trustworthiness among {neighbours} "
                    "neighbours. Distances between groups mean little. "
                )
                + f"{which}. Every panel has a scale of its own"
                + ("; examples far from all others lie on its edge." if _beyond(one.coordinates) else "."),
                f"Scatter plots of examples, one for each of {{layers}}, by {title.split(',')[0]}.",
            )
    if found.probed is not None:
        kinds = _kinds(found.probed)
        rows = {
            LABELS[kind]: (one.score, _estimates(findings, kind, len(found.names)), KINDS[kind])
            for kind, one in kinds.items()
        }
        hidden = not classes and min(float(one.score.min()) for one in kinds.values()) < figures.LOWEST
        yield Picture(
            "representation-probes",
            figures.over_layers(
                rows, _brief(found.names), "What a linear readout finds",
                "test accuracy of a readout" if classes else "test R² of a readout",
                ("most frequent class" if classes else "mean", found.probed.trained.chance), classes,
            ),
            "Score of a linear readout of every layer on test examples: "
            + _dots("seeds", found.num_probed)
            + (" Values below the lower edge are left out." if hidden else ""),
            f"Line chart over the layers: readouts of the {_last(found)} reach {{trained_{found.last}:value}}"
            + (f", before training {{untrained_{found.last}:value}}." if found.probed.untrained is not None else "."),
        )  # fmt: skip
    if found.trained is not None:
        both = {"trained": found.trained, "untrained": found.untrained}
        rows = {
            kind: (one.share, _estimates(findings, f"share_{kind}", len(found.names)), KINDS[kind])
            for kind, one in both.items()
            if one is not None
        }
        yield Picture(
            "representation-classes",
            figures.over_layers(
                rows, _brief(found.names), "How far classes draw apart", "share of variance between classes",
                ("labels at random", found.trained.null), True,
            ),
            "Share of the variance of every layer that lies between classes: " + _dots("restarts", len(found.ids)),
            "Line chart over the layers of the share of variance between classes, beside labels at random, {null:value}.",
        )  # fmt: skip
    if found.map is not None:
        shape = found.map
        yield Picture(
            "representation-map",
            figures.restarts(
                shape.plane.coordinates, shape.trained, shape.plane.explained, shape.plane.stress, _last(found)
            ),
            "A point for each network, by classical scaling of the distances between representations. Shares that the axes "
            "keep and the stress stand at the axes; the orientation means nothing.",
            "Map of restarts in the plane, stress {stress:value}.",
        )


def _dots(name: str, num: int) -> str:
    if num == 1:
        return "one restart, its layers joined by a line."
    return f"a dot for each of {{{name}}} restarts, medians joined by a line, their intervals as bars."


def _shares(two: np.ndarray) -> str:
    first, second = 100 * two
    return f"{first:.0f} % + {second:.0f} % of the variance" if np.all(np.isfinite(two)) else ""


def _beyond(planes: np.ndarray) -> bool:
    """Whether a panel has examples on its edge."""
    known = [plane for plane in planes if np.all(np.isfinite(plane))]
    windows = [(plane, *figures.window(plane)) for plane in known]
    return any(bool(np.any(np.abs(plane - centre) > half * (1 + 1e-9))) for plane, centre, half in windows)


def _brief(names: list[str]) -> list[str]:
    """For ticks of an axis that is called layer."""
    return [name.removeprefix("layer ") for name in names]


def _estimates(findings: dict[str, Finding], prefix: str, num: int) -> list[Estimate | None]:
    items = [findings.get(f"{prefix}_{k}") for k in range(num)]
    return [
        item and Estimate(item["value"], item["ci"] and tuple(item["ci"]), item["n"], item["unit"])  # type: ignore[misc]
        for item in items
    ]


SECTION = Section(
    "representation",
    "How do layers transform the data?",
    "What does every layer make of the examples, and do restarts do it alike?",
    some_converged,
    write,
)
