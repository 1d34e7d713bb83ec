"""The section's prose. What a run does not allow is left out, or said with its reason."""

from collections.abc import Iterator

import numpy as np

from analysis.report.findings import Finding
from analysis.report.section import plural
from analysis.report.sections.representation.measured import Measured
from analysis.statistics import interval_seeds

ERRORS = 2  # standard errors by the choice of examples that a claim takes


def headline(found: Measured) -> str:
    """Readouts of the last hidden layer, of the inputs, and before training."""
    if not found.probes:
        return ""
    last, on = found.last, "on " if found.class_names else ""
    score = f"{{trained_{last}}}"
    score = f"is right on {score} of the" if found.class_names else f"reaches an R² of {score} on"
    text = f"A linear readout of the {found.layer} {score} test {_examples(found)}"
    text += f", one of the inputs {on}{{trained_0:value}}"
    if found.moved:
        text += f", one of the same layer before training {on}{{untrained_{last}:value}}"
    return text + " ({seeds:n} " + plural(found.num_probed, "seed", "seeds") + ")."


def says(findings: dict[str, Finding], found: Measured) -> Iterator[str]:
    """What it says here, by paragraphs."""
    if found.probes:
        yield _readouts(findings, found)
        if found.moved:
            yield _untrained(findings, found)
        else:
            yield (
                "The restarts end with the weights that they started with, so there are no untrained networks to compare "
                "them with."
            )
        yield _shuffled(findings, found)
    else:
        yield f"Layers are not read out: {found.missing['probes']}."
    if found.classes:
        yield _classes(findings, found)
        if "nearest" in findings:
            yield _nearest(findings, found)
    elif found.class_names:
        yield f"How far apart the classes are is not told: {found.missing['classes']}."
    if found.drawn is not None:
        yield _drawings(findings, found)
    else:
        yield f"No layer is drawn: {found.missing['drawings']}."
    if found.map is not None:
        yield _map(findings, found)
    else:
        yield f"There is no map of restarts: {found.missing['map']}."


def _listed(findings: dict[str, Finding], found: Measured, prefix: str) -> str:
    """Values of the layers that are told one by one, in order; of the inputs, the same for all seeds, without interval."""
    names = {k: f"{prefix}_{k}" for k in found.shown}
    values = [f"{{{name}{'' if k else ':value'}}}" if name in findings else "none" for k, name in names.items()]
    return f"{', '.join(values[:-1])} and {values[-1]}"


def _examples(found: Measured) -> str:
    return plural(found.probes["trained"].num_test, "example", "examples")


def side(findings: dict[str, Finding], name: str) -> int:
    """Which side of zero a difference of two readouts lies on, 1 or -1; 0 where that is open.

    The interval over seeds has to lie there, the difference has to be larger than the choice of test examples explains,
    and so has what the better readout finds: where there is nothing, a wide layer may do worse than the mean. No interval
    of fewer than `interval_seeds` seeds is wide enough.
    """
    item = findings[name]
    if item["n"] < interval_seeds() or not _finds(findings, name):
        return 0
    if abs(item["value"]) <= ERRORS * findings[f"{name}_error"]["value"]:
        return 0
    low, high = item["ci"]
    return 1 if low > 0 else -1 if high < 0 else 0


def _finds(findings: dict[str, Finding], name: str) -> bool:
    """Whether the better of the two readouts does better than a constant answer."""
    return findings[f"{name}_found"]["value"] > ERRORS * findings[f"{name}_found_error"]["value"]


def _readouts(findings: dict[str, Finding], found: Measured) -> str:
    last, listed, of = found.layer, _listed(findings, found, "trained"), ""
    if found.class_names:
        of = " of the examples"
        scores = f"are right on {listed} of the {{num_test}} test {_examples(found)}"
        naming = "the most frequent class would be right on {chance:value}"
    else:
        scores = f"have an R² of {listed} on {{num_test}} test {_examples(found)}"
        naming = "the mean would have {chance:value} or less"
    restarts = "one restart" if found.num_probed == 1 else "medians of {seeds} restarts"
    text = (
        f"Layer by layer ({{layers}}), linear readouts {scores} ({restarts}); always naming {naming}. Between the {last} "
        f"and the inputs, the difference is {{gain}}{of}, beside a standard error of {{gain_error:value}} for the choice of "
        "examples"
    )
    if found.num_probed == 1:
        return text + "."
    if found.num_probed < interval_seeds():
        return (
            f"{text}. So few restarts do not decide whether a linear readout finds more in the {last} or in the inputs."
        )
    if where := side(findings, "gain"):
        return f"{text}: a linear readout finds {'more' if where > 0 else 'less'} in the {last} than in the inputs."
    text += f": that does not show that a linear readout finds more in the {last} than in the inputs, or less."
    return text if _finds(findings, "gain") else f"{text} Neither is clearly better than always naming the same."


def _untrained(findings: dict[str, Finding], found: Measured) -> str:
    last, of = found.layer, " of the examples" if found.class_names else ""
    text = f"Before training, the same networks reach {_listed(findings, found, 'untrained')}. "
    if more := side(findings, "untrained_gain"):
        where = f"more in the {last} even of" if more > 0 else f"less in the {last} of"
        text += f"So a linear readout finds {where} networks that have not learnt than in the inputs. "
    return text + f"At the {last}, training changes the score by {{learnt}}{of}."


def _shuffled(findings: dict[str, Finding], found: Measured) -> str:
    text = (
        "With the labels of the training examples shuffled, readouts "
        f"{'are right on' if found.class_names else 'have an R² of'} {{shuffled_least:value}} to {{shuffled_most:value}}, "
        "by layer: so much do readouts like these find where there is nothing to find."
    )
    if findings["unsettled"]["value"]:
        text += " Of all {probes} readouts, {unsettled} had not settled when their fit was stopped."
    return text


def _classes(findings: dict[str, Finding], found: Measured) -> str:
    text = (
        "Of the variance between {class_examples} {split} examples, the share that lies between the {classes} classes is, "
        f"layer by layer, {_listed(findings, found, 'share_trained')}; for labels at random it is {{null:value}}."
    )
    if not all(f"share_trained_{k}" in findings for k in found.shown):
        text += " A layer that hands on the same for all examples has none."
    if np.all(np.diff(found.classes["trained"].share, axis=0) > 0):
        text += " In every restart it grows" if len(found.ids) > 1 else " It grows"
        text += " from each layer to the next: examples of a class draw together."
    if found.moved:
        text += f" Before training it is {_listed(findings, found, 'share_untrained')}."
    return text


def _nearest(findings: dict[str, Finding], found: Measured) -> str:
    return (
        f"In the {found.layer}, the two classes that stay closest are {{nearest}}: their means are {{nearest_apart}} times "
        "as far apart as their examples spread along the line between them; in the inputs {nearest_inputs:value} times"
        + (", before training {nearest_untrained} times." if "nearest_untrained" in findings else ".")
    )


def _drawings(findings: dict[str, Finding], found: Measured) -> str:
    known = [k for k in found.shown if f"explained_{k}" in findings]
    if not known:
        return "In the restart that is drawn, every layer hands on the same for all examples: there is nothing to see."
    text = (
        "Seed {drawn_seed}, drawn with {drawn_examples} {split} examples: two principal components keep "
        f"{_listed(findings, found, 'explained')} of the variance, layer by layer. t-SNE (perplexity {{perplexity}}) has a "
        f"trustworthiness of {_listed(findings, found, 'trust')}"
    )
    principal, neighbours = (f"correlation_{name}_{found.last}" for name in ("principal", "neighbours"))
    if principal in findings and neighbours in findings:
        text += (
            f". At the {found.layer}, distances in the plane and in the layer have a rank correlation of "
            f"{{{principal}:value}} for principal components and {{{neighbours}:value}} for t-SNE"
        )
    if len(known) < len(found.shown):
        text += " (none: that layer hands on the same for all examples)"
    return text + "."


def _map(findings: dict[str, Finding], found: Measured) -> str:
    text = (
        f"At the {found.layer}, the representations of two restarts are {{distance_trained}} apart, whatever their rotation "
        "and scale"
    )
    if found.moved:
        text += (
            "; those of two untrained networks {distance_untrained}, and a restart is {distance_own} from its own start"
        )
    text += ". "
    if "map_ratio" in findings and findings["map_seeds"]["value"] < interval_seeds():
        text += (
            "So few restarts do not decide whether training makes them more alike ({map_ratio} times the distance). "
        )
    elif "map_ratio" in findings and (ci := findings["map_ratio"]["ci"]):
        low, high = ci
        text += (
            f"So training makes restarts {'more' if high < 1 else 'less'} alike than they started"
            if high < 1 or low > 1
            else "These seeds do not tell whether training makes restarts more alike"
        ) + " ({map_ratio} times the distance). "
    return text + (
        "The map in the plane keeps {map_explained:value} of the squared distances and its stress is {stress:value}, where "
        "zero would be a faithful map."
    )


def shows(found: Measured) -> str:
    """What is measured, of how many examples and restarts."""
    text = "What every layer hands on, inputs and outputs included. "
    if found.probes:
        text += (
            f"Linear readouts ({'logistic' if found.class_names else 'ridge'} regressions) are fitted to each layer on "
            f"{{num_train}} train examples and scored on {{num_test}} test {_examples(found)}, for {{seeds}} "
            + plural(found.num_probed, "restart", "restarts")
            + (", for the same networks before training" if found.moved else "")
            + ", and with shuffled labels. "
        )
    if found.classes:
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


def reads(found: Measured) -> str:
    """How to read each of them."""
    text = ""
    if found.probes:
        text += (
            "Layers change what a linear readout can find, and can only lose what the inputs hold: a readout that does "
            "better in a later layer says that the task was unfolded there, not that something was added. "
        )
    if found.moved:
        text += "Untrained networks show what depth and width do without learning. "
    if found.classes:
        text += "The share of variance between classes grows as examples of a class draw together. "
    if found.drawn is not None:
        text += (
            f"In the drawings follow {'a class' if found.class_names else 'a colour'} from panel to panel. Principal "
            "components are a plain shadow, and the share of variance says how much of the layer it holds; t-SNE keeps "
            "neighbours, and its trustworthiness (one is perfect) says how well. "
        )
    if found.map is not None:
        text += "On the map, points that lie close are networks whose layers hold the same pattern of examples. "
    return text.strip()


def limits(found: Measured) -> str:
    """What none of them says."""
    text = ""
    if found.probes:
        text += (
            "A readout tells what is there, not what the network uses, and its score depends on how strongly it is "
            "regularised ({l2:value} here), on how many examples it is fitted to, and on the width of the layer. "
        )
    text += "Intervals come from resampling seeds: they know nothing of other examples"
    text += ", and the standard errors nothing of other training examples. " if found.probes else ". "
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
