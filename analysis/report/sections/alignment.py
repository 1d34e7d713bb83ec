"""Section: how much of the difference between restarts is mere relabelling."""

import numpy as np

from analysis.alignment.study import NUM_ALPHAS, Geometry, Study
from analysis.figures import alignment as figures
from analysis.figures import style
from analysis.figures.strips import strips
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, Tell, plural, two_converged
from analysis.report.shared import alignment_study, all_equal, converged_params
from analysis.statistics import Estimate, median, median_over_pairs, pair_values, ratio_over_pairs
from analysis.training import metric_unit
from wspace.run import Run
from wspace.symmetry import Symmetry

WAYS = {
    "raw": "as trained",
    "random": "relabelled\nat random",
    "weights": "aligned by\nweights",
    "repaired": "by weights,\nthen REPAIR",
    "activations": "aligned by\nactivations",
}
NULLS = {"scrambled": "networks of shuffled weights", "untrained": "untrained networks"}
FOUND = 0.95  # share of units that a planted relabelling must give back to count as found


def needs(run: Run) -> str | None:
    """Two restarts, and hidden units to relabel."""
    if not run.model.symmetry.layers:
        return "This model has no hidden units, so there is nothing to relabel: equal functions have equal weights."
    return two_converged(run)


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Distances, cosines, units and barriers before and after alignment, with nulls and a planted control."""
    ids, params = converged_params(run)
    if all_equal(params):
        return Content(
            findings={"population": finding(len(ids), n=len(ids))},
            says=("All {population} restarts have equal weights: there is nothing to align.",),
        )
    result = alignment_study(run, tell)
    unit = metric_unit("train_loss", run.loss_kind)
    findings = _findings(result, run.model.symmetry, unit, rng, ids)
    return Content(
        findings=findings,
        headline=_headline(findings),
        says=tuple(_says(findings, result)),
        shows="Every pair of {pair_seeds} restarts, one of the two relabelled to lie as close to the other as weight "
        "matching can bring it ({kinds}); each network computes the same function before and after. "
        "Beside it: relabellings drawn at random; two nulls for the same matcher, the weights dealt out anew among the "
        "units and the restarts before training; and planted relabellings whose answer is known.",
        reads="What relabelling removes is not a difference between solutions. Matching finds likeness in noise as well, "
        "the more of it the fewer inputs carry weight: the null with shuffled weights keeps how much weight each input "
        "carries, and loses which weights belong to one unit. Only what goes beyond both nulls speaks of units that "
        "restarts share. A barrier that vanishes says that the straight line between two solutions, relabelled, stays low.",
        limits="Matching is a hard problem, and the matcher finds a local optimum: a distance or barrier that remains is an "
        "upper bound, not proof that two restarts differ modulo relabelling. The planted control covers independent noise "
        "only. "
        + _scales(findings)
        + "A low line does not show that two ends are one minimum, and nothing here is certified to be a minimum. "
        "Barriers are those of straight lines, computed at {alphas} points and at finer ones around each maximum. Pairs "
        "share seeds, so intervals resample seeds, not pairs.",
        pictures=tuple(_pictures(result, findings, unit, rng)),
        facts=_facts(findings),
    )


def _findings(result: Study, symmetry: Symmetry, unit: str, rng: np.random.Generator, ids: list[int]) -> dict:
    num = len(result.rows)
    pairs = np.triu_indices(num, 1)
    geometry, recovery = result.geometry, result.recovery
    findings = {
        "pair_seeds": finding(num, n=num),
        "pairs": finding(num * (num - 1) // 2, n=num),
        "alphas": finding(NUM_ALPHAS),
        "kinds": finding("permutations and signs of hidden units" if symmetry.sign else "permutations of hidden units"),
        "population": finding(len(ids), n=len(ids)),
        "reference": finding(str(ids[result.population.reference or 0]), n=len(ids)),
        "restart_spread": finding(median_over_pairs(result.matches.spread, rng=rng, unit="share")),
        "matches_converged": finding(Estimate(float(result.matches.converged[pairs].mean()), None, num, "share")),
        "transitivity_loss": finding(Estimate(result.transitivity, None, num, "share")),
        "embedding_explained": finding(Estimate(float(sum(result.embedding.explained)), None, len(ids), "share")),
    }
    if result.cycle:
        findings["cycle_error"] = finding(result.cycle)
    for name, geo in geometry.items():
        findings[f"distance_{name}"] = finding(median_over_pairs(geo.distance, rng=rng))
        findings[f"cosine_{name}"] = finding(median_over_pairs(geo.cosine, rng=rng))
    findings["removed"] = finding(_removed(geometry["raw"], geometry["aligned"], rng))
    for name in NULLS:
        if name in geometry and geometry[name].distance[pairs].min() > 0:
            findings[f"removed_{name}"] = finding(_removed(geometry[name], geometry[f"{name}_aligned"], rng))
    for way, losses in result.barriers.items():
        for split in ("train", "test"):
            pairwise = losses[f"{split}_loss"]
            for how, matrix in (("chord", pairwise.chord), ("mean", pairwise.mean)):
                findings[f"barrier_{way}_{split}_{how}"] = finding(median_over_pairs(matrix, rng=rng, unit=unit))
    raw, aligned = (result.barriers[way]["train_loss"].chord for way in ("raw", "weights"))
    if np.median(pair_values(raw)) > 0:
        findings["barrier_left"] = finding(ratio_over_pairs(aligned, raw, rng=rng, unit="share"))
    for name, layers in result.units.items():
        for layer, values in enumerate(layers):
            key = f"unit_cosine_{name}_layer_{layer + 1}"
            findings[key] = finding(Estimate(float(np.median(values)), None, num))
    findings["planted_recovered_exact"] = finding(median(recovery.recovered[0], rng=rng, unit="share"))
    if symmetry.scale and result.shortened:
        findings["scales_shorten"] = finding(result.shortened)
    if result.observed_noise is not None:
        failed = recovery.found[-1] < recovery.planted[-1] * (1 - 1e-9)
        findings |= {
            "planted_noise": finding(Estimate(result.observed_noise, None, num)),
            "planted_recovered": finding(median(recovery.recovered[-1], rng=rng, unit="share")),
            "planted_failed": finding(Estimate(float(failed.mean()), None, num, "share")),
        }
    return findings


def _headline(findings: dict) -> str:
    text = "Relabelling hidden units removes {removed} of the squared distance between restarts"
    nulls = [f"{{removed_{name}}} from {what}" for name, what in NULLS.items() if f"removed_{name}" in findings]
    if nulls:
        text += f", where it removes {' and '.join(nulls)}"
    if "barrier_left" in findings:
        text += "; the barrier between them is {barrier_left} of what it was"
    return text + " ({pair_seeds:n} seeds)."


def _says(findings: dict, result: Study):
    yield (
        "The median distance between two restarts falls from {distance_raw} to {distance_aligned} when one of them is "
        "relabelled to fit the other, and their cosine rises from {cosine_raw} to {cosine_aligned}; a random relabelling "
        "leaves the distance at {distance_random}."
    )
    nulls = [f"{{removed_{name}}} between {what}" for name, what in NULLS.items() if f"removed_{name}" in findings]
    if nulls:
        yield (
            f"{_against_nulls(findings)} In squared distance, alignment removes {{removed}} between restarts, "
            f"{', '.join(nulls)}."
        )
    yield (
        "The median barrier of the train loss above the chord is {barrier_raw_train_chord} as trained, "
        "{barrier_random_train_chord} after a random relabelling, {barrier_weights_train_chord} aligned by weights"
        + (", {barrier_repaired_train_chord} with REPAIR on top" if "barrier_repaired_train_chord" in findings else "")
        + " and {barrier_activations_train_chord} aligned by activations. On the test loss: {barrier_raw_test_chord} as "
        "trained, {barrier_weights_test_chord} aligned by weights. " + _verdict(findings)
    )
    yield _certificate(findings)
    if "cycle_error" in findings:
        yield (
            (
                "Matches of pairs do not close: around three networks, {cycle_error} of the units do not return to "
                "themselves."
                if findings["cycle_error"]["value"] > 0
                else "Matches of pairs close: around three networks, every unit returns to itself."
            )
            + " One labelling for all of them, chosen jointly, gives up {transitivity_loss:value} of the similarity that "
            "pair by pair matching gains."
        )
    if findings["pairs"]["n"] < 3:
        yield "With two restarts there is one pair and no interval: this is an example, not a distribution."


def _against_nulls(findings: dict) -> str:
    trained = findings["removed"]["ci"]
    nulls = [findings[f"removed_{name}"]["ci"] for name in NULLS if f"removed_{name}" in findings]
    if trained is None or any(ci is None for ci in nulls):
        return "What a matcher finds in noise is the null model."
    if trained[0] > max(high for _, high in nulls):
        return "Restarts have more in common than the matcher finds in networks that share no units."
    if trained[1] < min(low for low, _ in nulls):
        return "Restarts have less in common than the matcher finds in networks that share no units."
    return "As far as these seeds can tell, restarts have no more in common than networks that share no units may have."


def _scales(findings: dict) -> str:
    if "scales_shorten" not in findings:
        return ""
    return (
        "Scales of units are free here and were left as trained; balancing them would shorten the squared length of the "
        "median restart by {scales_shorten:value}. "
    )


def _verdict(findings: dict) -> str:
    left = findings.get("barrier_left")
    if left is None:
        return "There is no barrier to remove."
    if left["ci"] and left["ci"][1] < 1:
        return (
            "So most of the barrier was a matter of labels."
            if left["ci"][1] < 0.5
            else "So a part of the barrier was a matter of labels."
        )
    if left["ci"] and left["ci"][0] > 1:
        return "So weight matching makes the straight line worse, although it makes it shorter."
    return "So these seeds do not show that labels make the barrier."


def _certificate(findings: dict) -> str:
    if "planted_recovered" not in findings:
        return (
            "Control: without noise, {planted_recovered_exact} of the units of relabelled copies are found again. Aligned "
            "restarts are so unlike each other that no planted relabelling of that quality can be told from noise."
        )
    text = (
        "Control: copies of the same networks, relabelled at random and with noise that makes them as unlike their "
        "originals as aligned restarts are, in cosine ({planted_noise:value} times their own length), have "
        "{planted_recovered} of their units found again (without noise: {planted_recovered_exact:value}). "
    )
    if findings["planted_recovered"]["value"] >= FOUND:
        return (
            text + "So a planted relabelling of that quality is found; a failing matcher does not explain what remains."
        )
    if findings["planted_failed"]["value"] > 1 - FOUND:
        return (
            text
            + "The planted answer was better than what the matcher found in {planted_failed:value} of the copies: at "
            "that likeness the matcher misses answers, so what remains may in part be its failure, not a difference."
        )
    return (
        text
        + "The matcher found relabellings at least as good as the planted one: at that likeness labels cannot be told "
        "from noise, so neither sameness nor difference of single units follows."
    )


def _removed(before: Geometry, after: Geometry, rng: np.random.Generator) -> Estimate:
    """1 - median squared distance after / before, seeds resampled."""
    ratio = ratio_over_pairs(after.distance**2, before.distance**2, rng=rng, unit="share")
    removed = lambda left: round(1 - left, 9) + 0.0  # noqa: E731  # where nothing moved, rounding removes nothing
    ci = None if ratio.ci is None else (removed(ratio.ci[1]), removed(ratio.ci[0]))
    return Estimate(removed(ratio.value), ci, ratio.n, "share")


def _facts(findings: dict) -> tuple[tuple[str, str], ...]:
    rows = []
    for way, label in WAYS.items():
        if f"barrier_{way}_train_chord" in findings:
            text = "; ".join(
                f"{split} {{barrier_{way}_{split}_chord}} above the chord, {{barrier_{way}_{split}_mean}} above the mean"
                for split in ("train", "test")
            )
            rows.append((f"Barrier {label.replace(chr(10), ' ')}", text))
    rows.append(("Difference between the matcher's restarts", "{restart_spread} of its objective"))
    rows.append(("Matches that ended because no layer could be improved", "{matches_converged:value}"))
    return tuple(rows)


def _pictures(result: Study, findings: dict, unit: str, rng: np.random.Generator):
    pairs = plural(findings["pairs"]["value"], "pair", "pairs")
    strip = lambda matrix, color: (pair_values(matrix), median_over_pairs(matrix, rng=rng), color)  # noqa: E731
    rows = {
        "as trained": strip(result.geometry["raw"].distance, style.INIT),
        "relabelled\nat random": strip(result.geometry["random"].distance, style.TRAVELLED),
        "aligned": strip(result.geometry["aligned"].distance, style.END),
    }
    rows["shuffled\nweights, aligned"] = strip(result.geometry["scrambled_aligned"].distance, style.CYCLE[5])
    if "untrained" in result.geometry:
        rows |= {
            "untrained": strip(result.geometry["untrained"].distance, style.CYCLE[4]),
            "untrained,\naligned": strip(result.geometry["untrained_aligned"].distance, style.CYCLE[4]),
        }
    yield Picture(
        "alignment-distances",
        strips("Distance between restarts", "Euclidean distance in weight space", rows),
        f"Each dot is one of {{pairs}} {pairs} of {{pairs:n}} restarts; upright lines: medians; bars: their intervals over "
        "seeds. Heights only spread the dots. Shuffled weights and untrained networks are nulls: they share no units.",
        "Distances between pairs of restarts: median {distance_raw:value} as trained, {distance_aligned:value} aligned, "
        "{distance_random:value} relabelled at random.",
    )
    both = {
        WAYS[way]: {
            split: (
                pair_values(losses[f"{split}_loss"].chord),
                median_over_pairs(losses[f"{split}_loss"].chord, rng=rng),
            )
            for split in ("train", "test")
        }
        for way, losses in result.barriers.items()
    }
    yield Picture(
        "alignment-barriers",
        figures.barriers(unit, both),
        f"Highest rise of the loss above its chord on the straight line, for each of {{pairs}} {pairs}. The end is the same "
        "function in every row. Upright lines: medians; bars: their intervals over seeds.",
        "Barriers of pairs of restarts: median train barrier {barrier_raw_train_chord:value} as trained, "
        "{barrier_weights_train_chord:value} aligned by weights, {barrier_activations_train_chord:value} aligned by "
        "activations.",
    )
    names = {
        "aligned": "trained, matched",
        "scrambled": "shuffled weights, matched",
        "untrained": "untrained, matched",
        "random": "matched at random",
    }
    shown = {names[name]: result.units[name] for name in names if name in result.units}
    palette: tuple[str, ...] = (style.END, style.CYCLE[5], style.CYCLE[4], style.TRAVELLED)
    colors: dict[str, str] = dict(zip(names.values(), palette, strict=True))
    yield Picture(
        "alignment-units",
        figures.units(shown, colors),
        "Cosine between the incoming weights and biases of a unit and of its partner, the layers before aligned: median, "
        f"quartiles and fifth to ninety-fifth percentile over units and {{pairs}} {pairs}. "
        "Layers are numbered from the input.",
        "Cosine between matched units of each hidden layer, trained and untrained, beside random pairs of units.",
    )
    yield Picture(
        "alignment-embedding",
        figures.embedding(result.embedding, result.population.reference or 0),
        "{population} restarts, each twice: as trained, and aligned to the medoid, which stays. Principal components of "
        "both; this plane holds {embedding_explained} of the variance, so most of any distance is not seen in it.",
        "Scatter of the population before and after alignment in the plane of the first two principal components.",
    )
    yield Picture(
        "alignment-control",
        figures.recovery(result.recovery, result.observed_noise),
        "Planted relabellings of {pair_seeds} restarts with independent noise: thin lines are restarts. "
        + (
            "The dashed line is the noise at which a copy is as unlike its original as an aligned restart is, in cosine."
            if result.observed_noise is not None
            else "Aligned restarts are so unlike that they have no place on this axis."
        ),
        "Share of units that planted relabellings give back against noise: {planted_recovered_exact:value} without noise.",
    )


SECTION = Section(
    "alignment",
    "How much of the difference is relabelling?",
    "Are restarts the same network with its hidden units named differently?",
    needs,
    write,
)
