"""The section's pictures: layers of one restart in the plane, scores and classes by layer, restarts in the plane."""

from collections.abc import Iterator, Mapping

import numpy as np

from analysis.figures import representation as figures
from analysis.figures import style
from analysis.report.findings import Finding
from analysis.report.section import Picture, plural
from analysis.report.sections.representation.measured import Measured
from analysis.representation import Drawings, RestartMap
from analysis.statistics import Estimate

LOOKS = {
    "trained": ("trained", style.END),
    "untrained": ("untrained", style.INIT),
    "shuffled": ("trained, labels shuffled", style.TRAVELLED),
}


def draw(findings: dict[str, Finding], found: Measured) -> Iterator[Picture]:
    """A picture of all that was measured, in the order of reading."""
    if found.drawn is not None:
        yield from _layers(found.drawn, found)
    if found.probes:
        yield _probes(findings, found)
    if found.classes:
        yield _classes(findings, found)
    if found.map is not None:
        yield _map(found.map, found.layer, found.moved)


def _layers(drawn: Drawings, found: Measured) -> Iterator[Picture]:
    """A panel for each layer that is drawn, in two ways."""
    shares = 100 * drawn.explained
    ways = {
        "pca": (
            "Principal components",
            drawn.principal.coordinates,
            [f"{one:.0f} % + {two:.0f} % of the variance" if np.isfinite(one + two) else "" for one, two in shares],
            "The same {drawn_examples} {split} examples as each layer of seed {drawn_seed} has them, in the plane of their "
            "two principal components; below: the shares of variance along the two axes.",
        ),
        "tsne": (
            f"t-SNE, perplexity {drawn.perplexity:g}",
            drawn.neighbours.coordinates,
            [f"trustworthiness {trust:.3f}" if np.isfinite(trust) else "" for trust in drawn.neighbours.trust],
            "The same by t-SNE, which keeps neighbours; below: its trustworthiness among {neighbours} "
            f"{plural(drawn.num_neighbours, 'neighbour', 'neighbours')}. "
            "Distances between groups mean little.",
        ),
    }
    names, labels, classes = [found.names[k] for k in found.shown], found.labels[drawn.examples], found.class_names
    for way, (title, planes, notes, caption) in ways.items():
        yield Picture(
            f"representation-{way}",
            figures.by_class(planes, names, notes, labels, classes, title)
            if classes
            else figures.by_target(planes, names, notes, labels, found.target, title),
            f"{caption} {'Colour and marker: the class' if classes else f'Colour: the {found.target}'}. Every panel has a "
            f"scale of its own{'; examples far from all others lie on its edge' if _beyond(planes) else ''}.",
            f"Scatter plots of examples, one for each of {{layers}}, by {title.split(',')[0]}.",
        )


def _beyond(planes: np.ndarray) -> bool:
    """Whether a panel has examples on its edge."""
    known = [plane for plane in planes if np.all(np.isfinite(plane))]
    windows = [(plane, *figures.window(plane)) for plane in known]
    return any(bool(np.any(np.abs(plane - centre) > half * (1 + 1e-9))) for plane, centre, half in windows)


def _probes(findings: dict[str, Finding], found: Measured) -> Picture:
    scores, classifier = {kind: one.score for kind, one in found.probes.items()}, bool(found.class_names)
    hidden = not classifier and min(float(score.min()) for score in scores.values()) < figures.LOWEST
    return Picture(
        "representation-probes",
        figures.over_layers(
            _rows(findings, scores), _ticks(found), "What a linear readout finds",
            f"test {'accuracy' if classifier else 'R²'} of a readout",
            ("most frequent class" if classifier else "mean", found.probes["trained"].chance), classifier,
        ),
        "Score of a linear readout of every layer on test examples: "
        + _dots("seeds", found.num_probed)
        + (" Values below the lower edge are left out." if hidden else ""),
        f"Line chart over the layers: readouts of the {found.layer} reach {{trained_{found.last}:value}}"
        + (f", before training {{untrained_{found.last}:value}}." if found.moved else "."),
    )  # fmt: skip


def _classes(findings: dict[str, Finding], found: Measured) -> Picture:
    shares = {kind: one.share for kind, one in found.classes.items()}
    return Picture(
        "representation-classes",
        figures.over_layers(
            _rows(findings, shares, "share_"), _ticks(found), "How far classes draw apart",
            "share of variance between classes", ("labels at random", found.classes["trained"].null), True,
        ),
        "Share of the variance of every layer that lies between classes: " + _dots("restarts", len(found.ids)),
        "Line chart over the layers of the share of variance between classes, beside labels at random, {null:value}.",
    )  # fmt: skip


def _map(shape: RestartMap, layer: str, moved: bool) -> Picture:
    plane = shape.plane
    return Picture(
        "representation-map",
        figures.restarts(plane.coordinates, shape.trained, plane.explained, plane.stress, layer, moved),
        "A point for each network"
        + (", a line from the start of each restart to its end" if moved else "")
        + ", by classical scaling of the distances between representations. Shares that the axes "
        "keep and the stress stand at the axes; the orientation means nothing.",
        "Map of restarts in the plane, "
        + ("each joined to its own start, " if moved else "")
        + "stress {stress:value}.",
    )


def _rows(
    findings: dict[str, Finding], values: Mapping[str, np.ndarray], prefix: str = ""
) -> dict[str, figures.OverLayers]:
    """Values of every kind, (layer, seed), with their medians and their looks."""
    rows = {}
    for kind, some in values.items():
        label, color = LOOKS[kind]
        rows[label] = (some, [_estimate(findings.get(f"{prefix}{kind}_{k}")) for k in range(len(some))], color)
    return rows


def _estimate(item: Finding | None) -> Estimate | None:
    return Estimate(item["value"], item["ci"] and tuple(item["ci"]), item["n"], item["unit"]) if item else None


def _ticks(found: Measured) -> list[str]:
    """Names for an axis that is called layer."""
    return [name.removeprefix("layer ") for name in found.names]


def _dots(name: str, num: int) -> str:
    if num == 1:
        return "one restart, its layers joined by a line."
    return f"a dot for each of {{{name}}} restarts, medians joined by a line, their intervals as bars."
