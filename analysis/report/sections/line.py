"""Section: one straight line between two restarts."""

import numpy as np

from analysis.connectivity import LOSSES, Line, straight_line
from analysis.figures import line as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, Tell, two_converged
from analysis.statistics import Estimate
from analysis.training import metric_unit
from wspace.run import Run

FACTS = tuple(
    (
        f"Barrier of the {name.replace('_', ' ').replace('train objective', 'training objective')}",
        f"{{{name}_barrier_chord}} above the chord; {{{name}_barrier_mean}} above the mean of the ends",
    )
    for name in LOSSES
)
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # float32 rounding of a stored loss stays inside


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Losses, barriers and the Jensen violation between the first two converged seeds."""
    rows = np.flatnonzero(run.converged())[:2]
    seed_a, seed_b = (int(seed) for seed in run.seeds[rows])
    l2 = run.spec.objective.l2
    line = straight_line(run.model, run.loss_kind, run.params(seed_a), run.params(seed_b), run.data, l2=l2)
    unit = metric_unit("train_loss", run.loss_kind)
    stored = {name: run.metrics[name][rows, -1].astype(np.float64) for name in LOSSES}
    computed = {name: line.values[name][[0, -1]] for name in LOSSES}
    mismatch = max(float(np.max(np.abs(stored[name] - computed[name]))) for name in LOSSES)
    agrees = all(np.allclose(computed[name], stored[name], rtol=RELATIVE, atol=ABSOLUTE) for name in LOSSES)
    findings = {
        "seed_a": finding(str(seed_a)),
        "seed_b": finding(str(seed_b)),
        "length": finding(line.length, n=2),
        "points": finding(len(line.alphas)),
        "endpoint_mismatch": finding(Estimate(mismatch, None, 2, unit)),
        "endpoint_tolerance": finding([f"{RELATIVE:g} relative", f"{ABSOLUTE:g} absolute"], n=2),
        "endpoints_agree": finding(agrees, n=2),
    }
    for name, barrier in line.barriers.items():
        for key, value, its_unit in (
            ("start", line.values[name][0], unit),
            ("end", line.values[name][-1], unit),
            ("barrier_chord", barrier.chord, unit),
            ("barrier_chord_alpha", barrier.chord_alpha, ""),
            ("barrier_mean", barrier.mean, unit),
            ("barrier_mean_alpha", barrier.mean_alpha, ""),
            ("jensen_excess", barrier.excess, unit),
            ("jensen_tolerance", barrier.tolerance, unit),
            ("share_above_chord", barrier.share_above, "share"),
        ):
            findings[f"{name}_{key}"] = finding(Estimate(float(value), None, 2, its_unit))
        findings[f"{name}_violates_jensen"] = finding(barrier.violates_jensen, n=2)
    score = "accuracy" if run.task == "classification" else "r2"
    for split in ("train", "test"):
        values = line.values[f"{split}_{score}"]
        findings[f"{split}_{score}_lowest".replace("r2", "r_squared")] = finding(
            Estimate(float(values.min()), None, 2, "share" if score == "accuracy" else "")
        )
    identical = line.length == 0
    return Content(
        findings=findings,
        headline=_headline(line, identical),
        says=tuple(_says(run, line, identical, agrees, score)),
        shows="The loss of the networks on the segment between the weights of seed {seed_a} (a) and of seed {seed_b} (b), "
        "the first two seeds that were trained to the end, exact on all train and test examples, in double precision, "
        "at {points} evenly spaced points and at finer ones around each maximum.",
        reads="A convex loss never rises above its chord, the straight line between the losses at the ends (Jensen's "
        "inequality). One point above it by more than rounding suffices to show that the loss is not convex. The height "
        "above the chord, and above the mean of the ends, are the two usual definitions of a barrier.",
        limits="One line between one pair has no interval: it shows that the loss is not convex, or it shows nothing. It "
        "does not say how high barriers between other pairs are. A barrier on the straight line does not mean that the "
        "two ends are separate minima, or minima at all: a curved path, or the line to a relabelled copy of b, may have "
        "none. A bump narrower than the spacing of the points could be missed.",
        pictures=() if identical else tuple(_pictures(line, unit, score)),
        facts=() if identical else FACTS,
    )


def _headline(line: Line, identical: bool) -> str:
    if identical:
        return "The two restarts chosen for the straight line, seeds {seed_a} and {seed_b}, have equal weights."
    if line.barriers["train_objective"].violates_jensen:
        return (
            "The training objective is not convex: between the weights of seeds {seed_a} and {seed_b} it rises up to "
            "{train_objective_barrier_chord} above the chord, which Jensen's inequality forbids to a convex function "
            "(one pair)."
        )
    return (
        "Between the weights of seeds {seed_a} and {seed_b} the training objective does not rise above its chord at any "
        "computed point: no evidence against convexity on this line (one pair)."
    )


def _says(run: Run, line: Line, identical: bool, agrees: bool, score: str):
    if identical:
        yield "Seeds {seed_a} and {seed_b} ended at the same weights: there is no line between them."
    else:
        objective = line.barriers["train_objective"]
        if objective.violates_jensen:
            yield (
                "Jensen's inequality is violated: the training objective rises up to {train_objective_jensen_excess} "
                "above its chord (rounding explains at most {train_objective_jensen_tolerance}), and lies above it at "
                "{train_objective_share_above_chord} of the inner grid points. The objective is not convex."
            )
        else:
            yield (
                "No violation: at every computed point the training objective lies at or below its chord (excess over "
                "the chord at most {train_objective_jensen_excess}; rounding explains up to "
                "{train_objective_jensen_tolerance}). This does not prove that it is convex."
            )
        word, key = ("accuracy", "accuracy") if score == "accuracy" else ("R²", "r_squared")
        yield (
            f"The lowest {word} on the line is {{train_{key}_lowest}} on the train and {{test_{key}_lowest}} on the test "
            "examples."
        )
    if not run.model.symmetry.layers:
        yield (
            "This model has no hidden layer: its loss is convex in the weights, so a violation could only be an error. "
            "Here the line is a check of the method."
        )
    yield (
        "Check: the losses at the ends agree with those stored in training (largest difference {endpoint_mismatch})."
        if agrees
        else "Check failed: the losses at the ends differ from those stored in training by up to {endpoint_mismatch}, "
        "more than the tolerance ({endpoint_tolerance}). Distrust this section."
    )


def _pictures(line: Line, unit: str, score: str):
    barrier = (
        "arrow: barrier of the train loss above its chord"
        if line.barriers["train_loss"].violates_jensen
        else "the train loss does not rise above its chord"
    )
    yield Picture(
        "line-loss",
        figures.losses(line, f"loss ({unit})"),
        f"Loss without the weight penalty, on a linear axis. Dashed: chords; {barrier}. One pair of seeds.",
        "Line chart of train and test loss between the weights of two restarts: the train loss is "
        "{train_loss_start:value} and {train_loss_end:value} at the ends; its barrier above the chord is "
        "{train_loss_barrier_chord:value}.",
    )
    word = "Accuracy" if score == "accuracy" else "R²"
    key = "accuracy" if score == "accuracy" else "r_squared"
    yield Picture(
        f"line-{key.replace('_', '-')}",
        figures.scores(line),
        f"{word} of the same networks. One pair of seeds.",
        f"Line chart of train and test {word.lower() if score == 'accuracy' else word} along the line; lowest values "
        f"{{train_{key}_lowest}} and {{test_{key}_lowest}}.",
    )


SECTION = Section(
    "line",
    "One straight line between two restarts",
    "Is the loss convex between two ends of training?",
    two_converged,
    write,
)
