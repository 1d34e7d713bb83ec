"""Section: distances between restarts against the distance travelled."""

import numpy as np

from analysis.figures import similarity as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, Tell, plural, two_converged, varied
from analysis.similarity import distances
from analysis.statistics import median, median_over_pairs, ratio_over_pairs
from wspace.run import Run


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
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
    for name, null in (("unrelated", result.orthogonal_ends), ("right_angled", result.orthogonal_moves)):
        if np.all(null[np.triu_indices(num, 1)] > 0):
            findings[f"ratio_to_{name}"] = finding(ratio_over_pairs(result.end, null, rng=rng))
    moved = bool(np.all(result.travelled > 0))
    if moved:
        findings["cosine"] = finding(median_over_pairs(result.cosine, rng=rng))
    same = bool(result.end.max() == 0)
    return Content(
        findings=findings,
        headline=_headline(run, findings, same),
        says=tuple(_says(run, findings, same, moved)),
        shows="Euclidean distances in the space of all {num_params} weights and biases, over {pairs} "
        f"{plural(num * (num - 1) // 2, 'pair', 'pairs')} of restarts: between their starting points, between their ends, "
        "and, for scale, from each start to its own end.",
        reads="Two ends are different places if their distance is not small against the distance travelled. The null "
        "models say what distance to expect without any attraction to a common place: for two ends of these lengths in "
        "unrelated directions, and for moves at right angles to each other and to what separated the starts.",
        limits="Distances are raw: renaming the hidden units of a network changes its weights, not its function, so "
        "restarts that are far apart here may still be one network up to relabelling. Nothing here counts minima, and "
        "restarts are compared where training stopped. Pairs share seeds, so intervals resample seeds, not pairs.",
        pictures=() if same else tuple(_pictures(result, moved, num)),
    )


def _headline(run: Run, findings, same: bool) -> str:
    if same:
        return "All restarts end at exactly the same weights ({pairs:n} seeds)."
    if "ratio_to_travelled" not in findings:
        return "At least half of the restarts have not moved from where they started ({pairs:n} seeds)."
    text = (
        "The median distance between two ends is {ratio_to_travelled} times the median distance that a restart travels"
    )
    if "ratio_to_init" in findings:
        text += ", and {ratio_to_init} times that between two starts"
    return text + " ({pairs:n} seeds; hidden units not aligned)."


def _says(run: Run, findings, same: bool, moved: bool):
    if same:
        yield f"All {{pairs:n}} restarts end at exactly the same weights. What differs between them: {varied(run)}."
        return
    yield (
        "The median distance between two ends is {end_distance}; the closest pair is {end_distance_min:value} apart. "
        f"The median restart ends {{travelled}} from its start. What differs between restarts: {varied(run)}."
    )
    if "ratio_to_init" in findings:
        yield (
            f"{_compared(findings['ratio_to_init'])} they started: {{ratio_to_init}} times the median distance of "
            "{init_distance} between two starts."
        )
    elif findings["init_distance"]["value"] == 0:
        yield "All restarts share their starting point, so every distance between them arose in training."
    if "ratio_to_unrelated" in findings and "ratio_to_right_angled" in findings:
        yield (
            "Against null models: the ends are {ratio_to_unrelated} times as far apart as ends of these lengths in "
            "unrelated directions would be ({unrelated_directions:value}), and {ratio_to_right_angled} times as far as "
            "ends of moves at right angles ({right_angled_moves:value})."
        )
    if moved:
        yield (
            "The median cosine between the displacements of two restarts is {cosine}; unrelated moves have a cosine near "
            "zero, equal moves one of one."
        )
    else:
        yield "At least one restart did not move, so the angle between moves is not available."
    if findings["pairs"]["n"] < 3:
        yield "With two restarts there is one pair and no interval: this is an example, not a distribution."


def _compared(change) -> str:
    """What the ratio's interval supports; without one, nothing."""
    if change["ci"] is None:
        return "Against the distance at which"
    if change["ci"][0] > 1:
        return "Restarts end farther apart than"
    if change["ci"][1] < 1:
        return "Restarts end closer together than"
    return "Restarts end, as far as these seeds can tell, as far apart as"


def _pictures(result, moved: bool, num: int):
    pairs = plural(num * (num - 1) // 2, "pair", "pairs")
    yield Picture(
        "distances",
        figures.distances(result),
        f"Histograms, each scaled to its own highest bar, over {{pairs:n}} restarts and {{pairs}} {pairs}; a triangle marks "
        "the median. Lines: medians of the distance between ends under the two null models.",
        "Histograms of distances; medians: restarts travel {travelled:value}, starts are {init_distance:value} apart, ends "
        "{end_distance:value}; unrelated directions would give {unrelated_directions:value}.",
    )
    if moved:
        yield Picture(
            "displacement-cosines",
            figures.cosines(result),
            f"Cosine between the displacements of every pair ({{pairs}} {pairs}). Shaded: two standard deviations to both "
            "sides for random directions in as many dimensions. Restarts follow one task, so small positive cosines do "
            "not mean that they go to one place.",
            f"Histogram of the cosine between displacements over {{pairs}} {pairs}, median {{cosine:value}}.",
        )


SECTION = Section(
    "distance",
    "Do restarts end at different weights?",
    "How far apart do they end, against how far each of them travelled?",
    two_converged,
    write,
)
