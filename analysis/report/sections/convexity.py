"""Section: Jensen's inequality on many segments and triangles, with a convex control."""

import dataclasses

import numpy as np

from analysis.connectivity.convexity import Violations, last_layer_control, segments, triples
from analysis.figures import style
from analysis.figures.strips import Strip, strips
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, two_converged
from analysis.report.shared import (
    EQUAL,
    alignment_study,
    all_equal,
    converged_params,
    forward_flops,
    population_barriers,
)
from analysis.training import metric_unit
from wspace.run import Run
from wspace.symmetry import act

TRIPLE_FLOPS = 1e12  # what the triangles of one kind may cost: a quarter of a minute
TRIPLE_EVALUATIONS = 13
LINE_FLOPS = 1e13  # what the control may cost, counted as triangles are
MOST_TRIPLES, FEWEST_TRIPLES, MOST_CONTROLS = 200, 5, 40

LABELS = {
    "segments_raw": "segments,\nas trained",
    "segments_aligned": "segments,\naligned",
    "triples_raw": "triangles,\nas trained",
    "triples_aligned": "triangles,\naligned",
    "control": "last layer\nonly (convex)",
}
COLORS = {"raw": style.INIT, "aligned": style.END, "control": style.TRAVELLED}


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Shares and sizes of violations, raw and aligned, and the control."""
    ids, params = converged_params(run)
    if all_equal(params):
        return Content(
            findings={"seeds": finding(len(ids), n=len(ids))},
            says=("All {seeds} restarts have equal weights: no segment lies between them.",),
        )
    unit = metric_unit("train_loss", run.loss_kind)
    results, coincide = _measure(run, rng, tell, unit)
    findings: dict[str, Finding] = {}
    if coincide:
        findings["coincide"] = finding(coincide, n=len(ids))
    for name, found in results.items():
        findings |= {
            f"{name}_share": finding(found.share),
            f"{name}_median": finding(found.median),
            f"{name}_largest": finding(float(found.excess.max()), n=found.share.n) | {"unit": unit},
            f"{name}_samples": finding(len(found.excess), n=found.share.n),
        }
    findings["tolerance"] = finding(max(float(v.tolerance.max()) for v in results.values())) | {"unit": unit}
    hidden = bool(run.model.symmetry.layers)
    return Content(
        findings=findings,
        headline=_headline(results, hidden),
        says=tuple(_says(results, hidden, coincide)),
        shows="How far the training objective rises above the chord between two restarts, and above the plane through the "
        "losses of three, at points strictly inside; exact on all train examples, in double precision"
        + (
            ". Pairs are aligned one by one, triples by one labelling for all. Control: segments on which only the last "
            "layer changes, where the objective is convex."
            if hidden
            else "."
        ),
        reads="A convex function never lies above a chord or such a plane (Jensen's inequality). A dot right of zero by "
        "more than rounding is a violation. The share says how typical violations are of this population of restarts; "
        "shares of nothing or of all come with the exact interval of those samples that have no restart in common."
        + (" The control has to be free of violations, else the measurement would be wrong." if hidden else ""),
        limits="A sample without violation does not show that the loss is convex there: points between those computed could "
        "lie higher, and other samples could. Segments between ends of training say little about other regions. "
        "Samples share restarts, so intervals resample restarts. Dots left of zero lie below the chord by so much at their "
        "highest.",
        pictures=(
            Picture(
                "jensen",
                strips(
                    "Height above the chord or plane", f"largest excess of the objective ({unit})", _rows(results),
                    (4.1, 0.95 + 0.55 * len(results)),
                ),
                "One dot a sample; upright line: median over samples; bar below it: interval, resampling seeds.",
                "Rows of dots: the excess over segments, median {segments_raw_median} as trained"
                + (" and {segments_aligned_median} aligned" if "segments_aligned" in results else "")
                + ("; the control reaches {control_largest} at most." if "control" in results else "."),
            ),
        ),
    )  # fmt: skip


def _measure(run: Run, rng: np.random.Generator, tell: Tell, unit: str) -> tuple[dict[str, Violations], int]:
    """What was found, and how many aligned pairs are left out because they are equal up to rounding."""
    l2, coincide = run.spec.objective.l2, 0
    _, params, barriers = population_barriers(run, tell)
    results = {"segments_raw": segments(barriers["raw"]["train_objective"], rng=rng, unit=unit)}
    num = len(barriers["raw"]["train_objective"].chord)
    populations = {"raw": params}
    if run.model.symmetry.layers:
        study = alignment_study(run, tell)
        norms = np.sqrt(np.diag(study.matches.raw))
        equal = study.geometry["aligned"].distance <= EQUAL * np.add.outer(norms, norms)
        np.fill_diagonal(equal, False)
        coincide, aligned = int(equal.sum()) // 2, barriers["weights"]["train_objective"]
        if coincide:
            aligned = dataclasses.replace(aligned, chord=np.where(equal, np.nan, aligned.chord))
        if aligned.measured.any():
            results["segments_aligned"] = segments(aligned, rng=rng, unit=unit)
        if not coincide:
            populations["aligned"] = act(run.model.symmetry, study.universe.element, params)
    each = forward_flops(run) * TRIPLE_EVALUATIONS
    possible = num * (num - 1) * (num - 2) // 6
    wanted = min(possible, int(np.clip(TRIPLE_FLOPS // each, FEWEST_TRIPLES, MOST_TRIPLES)))
    seed = int(rng.integers(2**32))
    if possible:
        for way, stack in populations.items():
            results[f"triples_{way}"] = triples(
                run.model, run.loss_kind, stack, run.data, num_triples=wanted, rng=np.random.default_rng(seed), l2=l2,
                path=run.path / "convexity" / way, progress=tell,
            )  # fmt: skip
    if run.model.symmetry.layers:
        results["control"] = last_layer_control(
            run.model, run.loss_kind, params, run.data,
            num_pairs=min(num * (num - 1), int(np.clip(LINE_FLOPS // each, 4, MOST_CONTROLS))),
            rng=np.random.default_rng(seed), l2=l2, path=run.path / "convexity" / "control", progress=tell,
        )  # fmt: skip
    return results, coincide


def _headline(results: dict[str, Violations], hidden: bool) -> str:
    if not hidden:
        return (
            "This model's objective is convex in its weights, and Jensen's inequality is violated on {segments_raw_share} "
            "of the segments between restarts."
        )
    return (
        "Jensen's inequality is violated on {segments_raw_share} of the segments between restarts"
        + (", and on {segments_aligned_share} of them after alignment" if "segments_aligned" in results else "")
        + " ({segments_raw_samples:n} seeds)."
    )


def _says(results: dict[str, Violations], hidden: bool, coincide: int):
    many = lambda name, one, more: plural(len(results[name].excess), one, more)  # noqa: E731
    yield (
        f"Of {{segments_raw_samples}} {many('segments_raw', 'segment', 'segments')} between restarts, "
        "{segments_raw_share} violate Jensen's inequality by more than rounding; the median height above the chord is "
        "{segments_raw_median}, the largest {segments_raw_largest}."
        + (
            " Aligned, {segments_aligned_share} do, with a median of {segments_aligned_median} and at most "
            "{segments_aligned_largest}."
            if "segments_aligned" in results
            else ""
        )
        + (
            f" {{coincide}} aligned {plural(coincide, 'pair is', 'pairs are')} equal up to rounding and left out: no "
            "segment lies between them."
            if coincide
            else ""
        )
    )
    if "triples_raw" in results:
        yield (
            f"Of {{triples_raw_samples}} {many('triples_raw', 'triangle', 'triangles')} between three restarts, "
            "{triples_raw_share} violate it, with a median height of {triples_raw_median}"
            + (
                "; aligned, {triples_aligned_share}, with a median of {triples_aligned_median}."
                if "triples_aligned" in results
                else "."
            )
        )
    if "control" in results:
        yield (
            "Control: with only the last layer changed, {control_share} of {control_samples} segments are violated."
            if results["control"].share.value == 0
            else "Control failed: with only the last layer changed the objective is convex, and yet {control_share} of "
            "{control_samples} segments are violated. Distrust this section."
        )
    elif results["segments_raw"].share.value > 0:
        yield (
            "Check failed: this model has no hidden layer, so its objective is convex, and yet there are violations. "
            "Distrust this section."
        )
    else:
        yield "This model has no hidden layer: its objective is convex, and the method finds no violation, as it has to be."


def _rows(results: dict[str, Violations]) -> dict[str, Strip]:
    return {
        LABELS[name]: (found.excess, found.median, COLORS[name.rpartition("_")[2]]) for name, found in results.items()
    }


SECTION = Section(
    "convexity",
    "Is the loss convex between restarts?",
    "How often, and how far, does the loss rise above what a convex function could reach?",
    two_converged,
    write,
)
