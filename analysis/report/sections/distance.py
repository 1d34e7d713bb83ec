"""Section: distances between restarts against the distance travelled."""

import numpy as np

from analysis.figures import similarity as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, two_converged
from analysis.similarity import distances, median_over_pairs
from analysis.statistics import median
from wspace.run import Run


def write(run: Run, rng: np.random.Generator) -> Content:
    """Medians over pairs of the distances, their ratios and the two nulls."""
    rows = np.flatnonzero(run.converged())
    first, last = (np.asarray(run.theta.oindex[rows, checkpoint]) for checkpoint in (0, len(run.checkpoint_steps) - 1))
    result = distances(first, last, rng=rng)
    num = len(rows)
    findings = {
        "end_distance": finding(median_over_pairs(result.end, rng=rng)),
        "end_distance_min": finding(float(result.end[np.triu_indices(num, 1)].min()), n=num),
        "init_distance": finding(median_over_pairs(result.init, rng=rng)),
        "travelled": finding(median(result.travelled, rng=rng)),
        "unrelated_directions": finding(median_over_pairs(result.orthogonal_ends, rng=rng)),
        "right_angled_moves": finding(median_over_pairs(result.orthogonal_moves, rng=rng)),
        "pairs": finding(num * (num - 1) // 2, n=num),
        "num_params": finding(result.num_params),
    }
    if result.ratio:
        findings["ratio_to_travelled"] = finding(result.ratio)
    if result.change:
        findings["ratio_to_init"] = finding(result.change)
    moved = bool(np.all(result.travelled > 0))
    if moved:
        findings["cosine"] = finding(median_over_pairs(result.cosine, rng=rng))
    same = findings["end_distance"]["value"] == 0 and result.end.max() == 0
    return Content(
        findings=findings,
        headline=_headline(run, findings, same),
        says=tuple(_says(run, findings, same, moved)),
        shows="Euclidean distances in the space of all {num_params} weights and biases, over {pairs} pairs of restarts: "
        "between their starting points, between their ends, and, for scale, from each start to its own end.",
        reads="Two ends are different places if their distance is not small against the distance travelled. The dashed "
        "and dotted lines say what distance to expect without any attraction to a common place: for two ends of these "
        "lengths in unrelated directions, and for moves at right angles to each other and to what separated the starts.",
        limits="Distances are raw: renaming the hidden units of a network changes its weights, not its function, so "
        "restarts that are far apart here may still be one network up to relabelling. Nothing here counts minima, and "
        "restarts are compared where training stopped. Pairs share seeds, so intervals resample seeds, not pairs.",
        pictures=() if same else tuple(_pictures(result, moved, num)),
    )


def _headline(run: Run, findings, same: bool) -> str:
    if same:
        return "All restarts end at exactly the same weights ({pairs:n} seeds)."
    if "ratio_to_travelled" not in findings:
        return "The restarts have not moved from where they started."
    text = "Two restarts end {ratio_to_travelled} times as far apart as a restart travels"
    if "ratio_to_init" in findings:
        text += ", and {ratio_to_init} times as far apart as they started"
    return text + " ({pairs:n} seeds, no alignment of units)."


def _says(run: Run, findings, same: bool, moved: bool):
    if same:
        yield "All {pairs:n} restarts end at exactly the same weights: nothing that differs between them had an effect."
        return
    yield (
        "The median distance between two ends is {end_distance}; the closest pair is {end_distance_min:value} apart. "
        "A restart travels {travelled} from its start."
    )
    if "ratio_to_init" in findings:
        verb = "farther apart than" if findings["ratio_to_init"]["value"] > 1 else "closer together than"
        yield f"Restarts end {verb} they started: {{ratio_to_init}} times their initial distance of {{init_distance}}."
    else:
        yield "All restarts share their starting point, so every distance between them arose in training."
    expected, nearest = findings["unrelated_directions"]["value"], findings["end_distance"]["value"]
    comparison = (
        "about that far" if abs(nearest / expected - 1) < 0.05 else "less far" if nearest < expected else "farther"
    )
    yield (
        "Ends of these lengths in unrelated directions would be {unrelated_directions:value} apart, ends of moves at "
        f"right angles {{right_angled_moves:value}}: the restarts are {comparison} apart."
    )
    if moved:
        yield (
            "The median cosine between the displacements of two restarts is {cosine}; it is zero for unrelated moves, "
            "one for the same move."
        )
    else:
        yield "At least one restart did not move, so the angle between moves is not available."
    if findings["pairs"]["n"] < 3:
        yield "With two restarts there is one pair and no interval: this is an example, not a distribution."


def _pictures(result, moved: bool, num: int):
    yield Picture(
        "distances",
        figures.distances(result),
        "Histograms with the median marked, each scaled to its own highest bar: {pairs:n} restarts, {pairs} pairs. Lines: "
        "median distances of the ends under the two null models.",
        "Histograms of distances: restarts travel {travelled:value}, starts are {init_distance:value} apart, ends "
        "{end_distance:value}; unrelated directions would give {unrelated_directions:value}.",
    )
    if moved:
        yield Picture(
            "displacement-cosines",
            figures.cosines(result),
            "Cosine between the displacements of every pair. Shaded: where nearly all random directions in this many "
            "dimensions would fall (two standard deviations). Displacements of one task share causes, so a small "
            "positive cosine is expected.",
            "Histogram of the cosine between displacements over {pairs} pairs, median {cosine:value}.",
        )


SECTION = Section(
    "distance",
    "Do different starting points end at different weights?",
    "How far apart do restarts end, against how far each of them travelled?",
    two_converged,
    write,
)
