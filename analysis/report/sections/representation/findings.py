"""The section's findings: of readouts, of classes, of drawings and of the map."""

import itertools

import numpy as np

from analysis.report.findings import Finding, finding
from analysis.report.sections.representation.measured import SAME, Measured
from analysis.representation import Drawings, RestartMap, Separability, over_seeds, score_error
from analysis.statistics import median, median_over_pairs, pair_values, ratio_over_pairs


def find(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    """All findings that the run allows; a layer's bear its position, such as `trained_0` of the inputs."""
    findings = {
        "layers": finding([found.names[k] for k in found.shown]),
        "restarts": finding(len(found.ids), n=len(found.ids)),
        "examples": finding(len(found.labels)),
        "split": finding(found.split),
    }
    if found.probes:
        findings |= _of_probes(found, rng)
    if found.classes:
        findings |= _of_classes(found, rng) | _nearest(found, rng)
    if found.drawn is not None:
        findings |= {"drawn_seed": finding(found.ids[0])} | _of_drawings(found.drawn, found.shown)
    if found.map is not None:
        findings |= _of_map(found.map, found.map_units, rng)
    return findings


def _of_probes(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    probes, num, last = found.probes, found.num_probed, found.last
    unit = "share" if found.class_names else ""
    one, score = probes["trained"], {kind: probe.score for kind, probe in probes.items()}
    findings = {
        "seeds": finding(num, n=num),
        "num_train": finding(one.num_train),
        "num_test": finding(one.num_test),
        "l2": finding(one.l2),
        "chance": finding(float(one.chance), unit=unit),
    }
    for kind in probes:
        findings |= _each(kind, score[kind], rng, unit)
    middles = np.median(score["shuffled"], axis=1)
    findings["shuffled_least"] = finding(float(middles.min()), n=num, unit=unit)
    findings["shuffled_most"] = finding(float(middles.max()), n=num, unit=unit)
    changes = {"gain": score["trained"][[last, 0]]}
    if found.moved:
        changes["learnt"] = np.stack([score["trained"][last], score["untrained"][last]])
        changes["untrained_gain"] = score["untrained"][[last, 0]]
    for name, (more, less) in changes.items():
        # Without what rounding leaves of equal shares.
        findings[name] = finding(median(np.round(more - less, 12), rng=rng, unit=unit))
    findings |= _certainty("gain", one, last, unit)
    if found.moved:
        findings |= _certainty("untrained_gain", probes["untrained"], last, unit)
    settled = np.concatenate([probe.converged.ravel() for probe in probes.values()])
    findings["probes"] = finding(len(settled), n=num)
    findings["unsettled"] = finding(int(np.sum(~settled)), n=num)
    return findings


def _each(prefix: str, values: np.ndarray, rng: np.random.Generator, unit: str) -> dict[str, Finding]:
    """Medians of all layers where a seed has a value."""
    estimates = over_seeds(values, rng=rng, unit=unit).each
    return {f"{prefix}_{k}": finding(each) for k, each in enumerate(estimates) if each is not None}


def _certainty(name: str, probes: Separability, last: int, unit: str) -> dict[str, Finding]:
    """Standard errors by the choice of test examples, of a median seed: of the difference between the last hidden layer and
    the inputs, and of what the better of the two finds more than a constant answer, with the latter itself.
    """
    each, num = probes.by_example[[last, 0]], probes.score.shape[1]
    better = each[np.argmax(np.median(each.mean(axis=2), axis=1))] - probes.chance
    numbers = {
        f"{name}_error": score_error(each[0] - each[1]),
        f"{name}_found": better.mean(axis=1),
        f"{name}_found_error": score_error(better),
    }
    return {key: finding(float(np.median(values)), n=num, unit=unit) for key, values in numbers.items()}


def _of_classes(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    trained = found.classes["trained"]
    findings = {
        "classes": finding(len(trained.classes)),
        "class_examples": finding(trained.num_examples),
        "null": finding(float(trained.null), unit="share"),
    }
    for kind, one in found.classes.items():
        findings |= _each(f"share_{kind}", one.share, rng, "share")
    return findings


def _nearest(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    """The two classes that stay closest in the last hidden layer; nothing where a distance of theirs is not finite."""
    trained, last = found.classes["trained"], found.last
    middles = np.median(trained.apart[last], axis=0)
    c, d = min(itertools.combinations(range(len(middles)), 2), key=lambda pair: middles[pair])
    apart = {kind: one.apart[last, :, c, d] for kind, one in found.classes.items()}
    inputs = float(trained.apart[0, 0, c, d])
    if not np.all(np.isfinite([*apart["trained"], *trained.share[last], inputs])):
        return {}
    names = [found.class_names[int(trained.classes[k])] for k in (c, d)]
    findings = {
        "nearest": finding(f"“{names[0]}” and “{names[1]}”"),
        "nearest_apart": finding(median(apart["trained"], rng=rng)),
        "nearest_inputs": finding(inputs),
    }
    if found.moved and np.all(np.isfinite(apart["untrained"])):
        findings["nearest_untrained"] = finding(median(apart["untrained"], rng=rng))
    return findings


def _of_drawings(drawn: Drawings, shown: list[int]) -> dict[str, Finding]:
    findings = {
        "drawn_examples": finding(len(drawn.examples)),
        "perplexity": finding(int(drawn.perplexity)),
        "neighbours": finding(drawn.num_neighbours),
    }
    for place, k in enumerate(shown):
        if np.all(np.isfinite(drawn.explained[place])):
            findings[f"explained_{k}"] = finding(float(drawn.explained[place].sum()), unit="share")
            findings[f"trust_{k}"] = finding(float(drawn.neighbours.trust[place]))
            findings[f"trust_principal_{k}"] = finding(float(drawn.principal.trust[place]))
        for name, one in (("principal", drawn.principal), ("neighbours", drawn.neighbours)):
            if np.isfinite(one.correlation[place]):
                findings[f"correlation_{name}_{k}"] = finding(float(one.correlation[place]))
    return findings


def _of_map(shape: RestartMap, units: int, rng: np.random.Generator) -> dict[str, Finding]:
    rows, others = np.flatnonzero(shape.trained), np.flatnonzero(~shape.trained)
    num, trained = len(rows), shape.distance[np.ix_(rows, rows)]
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
        findings["distance_own"] = finding(median(shape.distance[rows, others], rng=rng, unit="radians"))
        if np.median(pair_values(untrained)) > SAME:
            findings["map_ratio"] = finding(ratio_over_pairs(trained, untrained, rng=rng))
    return findings
