"""Section: whether restarts compute the same function, and whether distance in weight space tells."""

import dataclasses

import jax
import numpy as np

from analysis.figures import connectivity as connectivity_figures
from analysis.figures import function as figures
from analysis.figures import style
from analysis.figures import trajectory as trajectory_figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, two_converged
from analysis.report.shared import alignment_study, all_equal
from analysis.similarity import (
    Correspondence,
    FunctionDistances,
    Neighbourhoods,
    Samples,
    Scaling,
    at_equal_score,
    cka,
    common_order,
    correspondence,
    distances,
    function_distances,
    neighbourhoods,
    outputs,
    prediction_distances,
    representations,
    samples_around,
    scaling,
)
from analysis.statistics import Estimate, median, median_over_pairs, pair_values, ratio_over_pairs
from wspace.run import Run
from wspace.tree import Params

MOST_SEEDS, MOST_SAMPLED, MOST_DRAWN = 64, 8, 6
MOST_CHECKPOINTS = 41  # of each restart in the planes of predictions; of more, as many evenly chosen ones
MOST_EXAMPLES, MOST_REPRESENTED, FEWEST_REPRESENTED = 2000, 500, 4
PERPLEXITY, NUM_STARTS = 30, 3
MOST_LATE, MOST_VALUES = 20, 2**26  # checkpoints to sample around, evenly chosen, and values held of them
MARGIN = 0.01  # of accuracy or R^2 that samples may give up
WAYS = {
    "diagonal": "each weight by its own spread",
    "low_rank": "along late principal components",
    "subspace": "in as many random directions",
}


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the section draws."""

    ids: list[int]
    order: np.ndarray
    functions: FunctionDistances
    layers: dict[str, np.ndarray]
    same_layer: np.ndarray | None
    weights: dict[str, tuple[np.ndarray, np.ndarray]]
    samples: Samples | None
    plane: Scaling | None
    groups: Neighbourhoods | None
    shape: tuple[int, int]


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Distances between functions and representations, against weights and against samples around one restart."""
    ids = run.seeds[run.converged()].tolist()[:MOST_SEEDS]
    params = run.params(ids)
    split = "test" if len(run.data.x_test) else "train"
    x, y = (getattr(run.data, f"{name}_{split}")[:MOST_EXAMPLES] for name in ("x", "y"))
    tell("predictions")
    functions = function_distances(run.model, params, x, y, run.task)
    findings = _function_findings(functions, rng) | {"split": finding(split)}
    if functions.distance.max() == 0:
        same = "All {seeds} restarts predict the same on all {examples} {split} examples."
        return Content(
            findings=findings,
            headline=same,
            says=(same + (" Their weights are equal too." if all_equal(params) else " Their weights differ."),),
            shows="What {seeds} restarts predict on {examples} {split} examples; no pair of {pairs} differs anywhere.",
            reads="Networks that predict the same on every example compute the same function as far as these examples tell.",
            limits="Predicted classes may agree where probabilities do not, and other examples may tell them apart.",
        )
    order = common_order(functions.distance)
    tell("representations")
    layers, same_layer, more = _alignments(run, params, ids, x[:MOST_REPRESENTED], rng)
    findings |= more
    weights, more = _weights(run, params, ids, functions, rng, tell)
    findings |= more
    sampled = _samples(run, rng, tell)
    if sampled is not None:
        findings |= _sample_findings(sampled, rng)
    tell("embedding predictions")
    plane, groups, shape, more = _embedded(run, ids, x[:MOST_REPRESENTED], rng)
    findings |= more
    found = _Found(ids, order, functions, layers, same_layer, weights, sampled, plane, groups, shape)
    return Content(
        findings=findings,
        headline=_headline(findings, functions),
        says=tuple(_says(findings, found)),
        shows=_shows(findings, found),
        reads="Networks may differ in weights and compute the same function, and the other way round. The null model of "
        "independent errors says how far apart networks would be that err as often as these, on other examples. "
        "The alignment of two layers (CKA, debiased) is one where they hold the same pattern of likeness between examples, "
        "up to a rotation and a scale, and zero on average for unrelated ones. Samples around a restart show whether its "
        "neighbourhood offers other functions that are as good.",
        limits="All this is on {examples} {split} examples (representations: {represented}): networks that agree there may "
        "differ elsewhere. A rank correlation of distances says nothing about single pairs. The orientation of a "
        "plane of predictions means nothing; t-SNE keeps neighbours, so that distances between groups mean nothing. Samples "
        "are Gaussian and as wide as the checkpoints of the second half of training are spread, times a scale.",
        pictures=tuple(_pictures(findings, found)),
    )


def _function_findings(functions: FunctionDistances, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(functions.error)
    unit = "share" if functions.task == "classification" else ""
    findings = {
        "seeds": finding(num, n=num),
        "pairs": finding(num * (num - 1) // 2, n=num),
        "examples": finding(functions.num_examples),
        "distance": finding(median_over_pairs(functions.distance, rng=rng, unit=unit)),
        "independent": finding(median_over_pairs(functions.independent, rng=rng, unit=unit)),
        "error": finding(median(functions.error, rng=rng, unit=unit)),
        "floored": finding(int(functions.floored.sum()), n=num),
    }
    if len(pair_values(functions.normalised)):  # a regression without error has nothing to divide by
        findings["normalised"] = finding(median_over_pairs(functions.normalised, rng=rng))
    if np.median(pair_values(functions.independent)) > 0:
        ratio = ratio_over_pairs(functions.distance, functions.independent, rng=rng)
        findings["of_independent"] = finding(ratio)
    if functions.divergence is not None:
        findings["divergence"] = finding(median_over_pairs(functions.divergence, rng=rng, unit="nats"))
    return findings


def _alignments(
    run: Run, params: Params, ids: list[int], x: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray | None, dict[str, Finding]]:
    """Layers against layers of other restarts, trained and untrained; and pairs at the last hidden layer."""
    layers, findings = {}, {"represented": finding(len(x))}
    if len(x) < FEWEST_REPRESENTED:
        return layers, None, findings
    matrices = {}
    for name, some in (("trained", params), ("untrained", run.params(ids, 0))):
        matrices[name] = cka(representations(run.model, some, x))
        num_layers, off = len(matrices[name]), ~np.eye(len(ids), dtype=bool)
        layers[name] = np.full((num_layers, num_layers), np.nan)
        for a in range(num_layers):
            for b in range(num_layers):
                values = matrices[name][a, b][off]
                if not np.all(np.isnan(values)):
                    layers[name][a, b] = np.nanmedian(values)
            if np.isfinite(layers[name][a, a]):
                findings[f"cka_{name}_{a + 1}"] = finding(median_over_pairs(matrices[name][a, a], rng=rng))
    return layers, matrices["trained"][-2 if num_layers > 1 else -1, -2 if num_layers > 1 else -1], findings


def _weights(
    run: Run, params: Params, ids: list[int], functions: FunctionDistances, rng: np.random.Generator, tell: Tell
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, Finding]]:
    """Distance in weight space, raw and aligned, against distance in function."""
    theta = np.concatenate([np.asarray(leaf).reshape(len(ids), -1) for leaf in jax.tree.leaves(params)], axis=1)
    rows = {"raw": (distances(theta, theta, rng=rng).end, np.arange(len(ids)))}
    if run.model.symmetry.layers and not all_equal(params):
        study = alignment_study(run, tell)
        kept = study.rows[study.rows < len(ids)]
        rows["aligned"] = (study.geometry["aligned"].distance[: len(kept), : len(kept)], kept)
    found, findings = {}, {}
    for way, (matrix, at) in rows.items():
        function = functions.distance[np.ix_(at, at)]
        result = correspondence(matrix, function, rng=rng)
        upper = np.triu_indices(len(at), 1)
        found[way] = (matrix[upper], function[upper])
        if result is not None:
            findings |= _correspondence_findings(way, result)
    return found, findings


def _correspondence_findings(way: str, result: Correspondence) -> dict[str, Finding]:
    return {
        f"rank_{way}": finding(result.correlation),
        f"rank_{way}_p": finding(result.p, n=result.correlation.n),
        f"rank_{way}_shuffles": finding(result.num_permutations),
    }


def _samples(run: Run, rng: np.random.Generator, tell: Tell) -> Samples | None:
    """Around up to MOST_SAMPLED restarts, from the checkpoints of the second half of training; None where these are few."""
    rows, steps = np.flatnonzero(run.converged())[:MOST_SAMPLED], run.checkpoint_steps
    late = np.flatnonzero(steps >= steps[-1] / 2)
    late = late[np.linspace(0, len(late) - 1, min(len(late), MOST_LATE)).round().astype(int)]
    rows = rows[: max(2, MOST_VALUES // (len(late) * run.layout.size))]
    if len(late) < 3 or len(run.data.x_test) == 0:
        return None
    theta = np.asarray(run.theta.oindex[rows, late])
    return samples_around(
        run.model, run.layout, theta, run.data, rng=rng, progress=lambda text: tell(f"samples around {text}")
    )


def _sample_findings(samples: Samples, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(samples.restart_score)
    findings = {"sampled": finding(num, n=num), "num_samples": finding(samples.num_samples)}
    findings["margin"] = finding(MARGIN)
    beyond = np.zeros(num, bool)
    for way in WAYS:
        found = at_equal_score(samples, way, margins=(MARGIN,), rng=rng)
        beyond |= found.beyond[:, 0]
        if found.ratio[0] is not None:
            findings[f"as_good_{way}"] = finding(dataclasses.replace(found.ratio[0], unit="share"))
    findings["beyond"] = finding(int(beyond.sum()), n=num)
    return findings


def _embedded(
    run: Run, ids: list[int], x: np.ndarray, rng: np.random.Generator
) -> tuple[Scaling | None, Neighbourhoods | None, tuple[int, int], dict[str, Finding]]:
    """Predictions of a few restarts over training, jointly in one plane by scaling and by t-SNE."""
    some, last = ids[:MOST_DRAWN], len(run.checkpoint_steps) - 1
    at = np.linspace(0, last, min(last + 1, MOST_CHECKPOINTS)).round().astype(int).tolist()
    predicted = np.stack([outputs(run.model, run.params(some, t), x) for t in at], axis=1)
    far = prediction_distances(predicted, run.task)
    num, shape = len(far), (len(some), len(at))
    findings: dict[str, Finding] = {"drawn": finding(len(some), n=len(some)), "points": finding(num)}
    if num < 4 or far.max() == 0:
        return None, None, shape, findings
    plane, perplexity = scaling(far), min(PERPLEXITY, (num - 1) // 3)
    groups = neighbourhoods(far, perplexity=perplexity, num_starts=NUM_STARTS, rng=rng)
    findings |= {
        "scaling_explained": finding(Estimate(float(plane.explained.sum()), None, len(some), "share")),
        "perplexity": finding(perplexity),
        "starts": finding(NUM_STARTS),
        "trust": finding(float(groups.trust.min())),
    }
    if groups.agreement is not None:
        findings["agreement"] = finding(groups.agreement)
    return plane, groups, shape, findings


def _headline(findings: dict[str, Finding], functions: FunctionDistances) -> str:
    if functions.task == "classification":
        return (
            "Two restarts predict different classes on {distance} of the {split} examples; they err on {error}, and "
            "independent errors would make them differ on {independent:value} ({seeds:n} seeds)."
        )
    return (
        "The predictions of two restarts differ by {distance} (root mean square); their errors are {error}, and "
        "independent ones would make them differ by {independent:value} ({seeds:n} seeds)."
    )


def _says(findings: dict[str, Finding], found: _Found):
    classes = found.functions.task == "classification"
    what = "predict different classes on {distance} of" if classes else "differ by {distance} (root mean square) on"
    yield (
        f"The median pair of restarts {what} {{examples}} {{split}} examples"
        + (": {normalised} times their own error. " if "normalised" in findings else ". ")
        + "Networks that err as often, but independently of each other, would have {independent}"
        + (
            "; restarts have {of_independent} times that"
            if "of_independent" in findings
            else ""
        )
        + "."
        + (" The median Jensen-Shannon divergence of their predictions is {divergence}." if "divergence" in findings else "")
        + (
            " Restarts without an error here, {floored} of {seeds}, are divided by one example's worth of it."
            if findings["floored"]["value"]
            else ""
        )
    )  # fmt: skip
    yield _layers_say(findings, found)
    for way, label in (("raw", "as trained"), ("aligned", "with units aligned")):
        if f"rank_{way}" in findings:
            yield _rank_says(findings, way, label)
    if found.samples is not None and all(f"as_good_{way}" in findings for way in WAYS):
        yield (
            "Samples around one restart that lose no more than {margin:value} in "
            + ("test accuracy" if classes else "test R²")
            + " differ from it by at most "
            + ", ".join(f"{{as_good_{way}}} ({label})" for way, label in WAYS.items())
            + " of what two restarts differ by. "
            + _sample_verdict(findings)
        )
    if "trust" in findings:
        yield (
            "In one plane, the predictions of {drawn} restarts over training keep {scaling_explained} of their squared "
            "distances by classical scaling. The neighbourhoods that t-SNE draws (perplexity {perplexity:value}) are "
            "trustworthy to {trust:value} in the worst of {starts} random starts"
            + (
                ", and the distances in different starts have a rank correlation of {agreement:value}."
                if "agreement" in findings
                else "."
            )
        )


def _layers_say(findings: dict[str, Finding], found: _Found) -> str:
    if found.same_layer is None:
        return "So few examples do not tell how alike representations are: their alignment is not estimated."
    parts = []
    for layer in range(len(found.layers["trained"])):
        if f"cka_trained_{layer + 1}" in findings:
            text = f"{{cka_trained_{layer + 1}}}"
            if f"cka_untrained_{layer + 1}" in findings:
                text += f" (untrained {{cka_untrained_{layer + 1}:value}})"
            parts.append(text)
    if not parts:
        return "No layer's representation varies with the example: there is nothing to align."
    return (
        "From the first layer to the outputs, equal layers of two restarts have an alignment of "
        + ", ".join(parts)
        + "."
    )


def _rank_says(findings: dict[str, Finding], way: str, label: str) -> str:
    text = (
        f"Distance between weights, {label}, and distance between functions have a rank correlation of {{rank_{way}}} over "
        f"pairs of {{rank_{way}:n}} seeds (p = {{rank_{way}_p:value}}, {{rank_{way}_shuffles}} permutations of the seeds). "
    )
    if findings[f"rank_{way}_p"]["value"] > 0.05:
        return text + "So these seeds do not show that weights that are farther apart compute functions that are."
    positive = findings[f"rank_{way}"]["value"] > 0
    return (
        text
        + f"So weights that are farther apart compute functions that are {'farther apart' if positive else 'closer'}."
    )


def _sample_verdict(findings: dict[str, Finding]) -> str:
    cis = [findings[f"as_good_{way}"]["ci"] for way in WAYS]
    if findings["beyond"]["value"]:
        return (
            "Around {beyond} of {sampled} restarts they are so good up to the farthest that were drawn: there this is a "
            "lower bound, and these samples do not tell how far the neighbourhood of a restart reaches."
        )
    if any(ci is None for ci in cis):
        return "There is no interval: restarts are too few, or too many of them predict the same."
    if all(ci[1] < 1 for ci in cis):
        return "So good functions around one restart are fewer than those that restarts reach."
    if any(ci[0] > 1 for ci in cis):
        return "So the neighbourhood of one restart holds functions as far apart as restarts, and as good."
    return "So these seeds do not tell whether restarts reach other functions than a restart's neighbourhood holds."


def _shows(findings: dict[str, Finding], found: _Found) -> str:
    text = (
        "What {seeds} restarts predict on {examples} {split} examples, over {pairs} "
        f"{plural(findings['pairs']['value'], 'pair', 'pairs')}, beside distances in weight space"
        + ("; how alike their layers represent {represented} of these" if found.same_layer is not None else "")
        + (
            "; and the predictions of {drawn} restarts over training, {points} points, in one plane."
            if found.plane is not None
            else "."
        )
    )
    if found.samples is not None:
        text += " Around {sampled} restarts, {num_samples} networks at each of several distances, drawn in three ways."
    return text


def _pictures(findings: dict[str, Finding], found: _Found):
    classes = found.functions.task == "classification"
    what = "share of predictions that differ" if classes else "root mean squared difference"
    yield Picture(
        "function-matrix",
        connectivity_figures.matrix(
            found.functions.distance, found.order, found.ids, "Do they predict the same?", what,
            float(found.functions.distance.max()),
        ),
        "Distance between the predictions of every pair. Restarts are in the order of one tree (average linkage of these "
        "distances)" + (", here and in the next matrix." if found.same_layer is not None else "."),
        "Matrix of the distances between predictions of all pairs of restarts, {distance:value} in the median.",
    )  # fmt: skip
    if found.same_layer is not None:
        yield Picture(
            "function-cka-matrix",
            connectivity_figures.matrix(
                found.same_layer,
                found.order,
                found.ids,
                "Do they represent the same?",
                "alignment of representations (CKA)",
                1.0,
            ),
            "Alignment of every pair at the last hidden layer (without hidden layers: of the outputs), in the same order.",
            "Matrix of the alignment of representations for all pairs of restarts.",
        )
    for name, values in found.layers.items():
        names = [*(str(k + 1) for k in range(len(values) - 1)), "outputs"]
        yield Picture(
            f"function-layers-{name}",
            figures.layers(values, names, f"Layers against layers, {name}", "alignment (CKA), median over pairs"),
            "Alignment of each layer of a restart with each layer of another, median over pairs of different restarts"
            + (". Untrained: the same networks where they start, a null." if name == "untrained" else "."),
            f"Matrix of the alignment between layers of different restarts, {name}.",
        )
    rows = {{"raw": "as trained", "aligned": "units aligned"}[way]: values for way, values in found.weights.items()}
    yield Picture(
        "function-against",
        figures.against(rows, "distance in weight space", what, [style.INIT, style.END]),
        "Every pair of restarts: how far apart its weights are, and its predictions. Aligned pairs are those of the seeds "
        "whose units were matched.",
        "Scatter of distance between predictions against distance between weights.",
    )
    if found.samples is not None:
        samples, others = (
            found.samples,
            found.samples.restart_distance.sum(axis=1) / (len(found.samples.restart_score) - 1),
        )
        yield Picture(
            "function-samples",
            figures.samples(
                (samples.restart_score, others),
                {label: (samples.score[way], samples.distance[way]) for way, label in WAYS.items()},
                "test accuracy" if classes else "test R²", what, classes,
            ),
            "Samples around a restart at growing distance (lines; thick: medians over restarts) beside the other restarts "
            "(stars: each one's own score and its mean distance from the others). Where stars lie above the lines, "
            "restarts differ more than samples that are as good.",
            "Line chart of the distance from the restart against the score for samples in three ways, and the restarts.",
        )  # fmt: skip
    names = [f"seed {seed}" for seed in found.ids[: found.shape[0]]]
    if found.plane is not None:
        shares = [f"coordinate {k + 1} ({share:.1%})" for k, share in enumerate(found.plane.explained)]
        yield Picture(
            "function-scaling",
            trajectory_figures.in_plane(
                found.plane.coordinates.reshape(*found.shape, 2),
                names,
                "Predictions over training",
                shares[0],
                shares[1],
            ),
            "Predictions of {drawn} restarts over training by classical scaling: the share that the plane keeps of the "
            "squared distances stands at the axes.",
            "Paths of restarts in a plane of predictions; it keeps {scaling_explained:value} of the squared distances.",
        )
    if found.groups is not None:
        yield Picture(
            "function-tsne",
            trajectory_figures.in_plane(
                found.groups.best.reshape(*found.shape, 2), names, "The same by t-SNE", "coordinate (no unit)",
                "coordinate (no unit)",
            ),
            "The same points by t-SNE, perplexity {perplexity:value}, the best of {starts} random starts: neighbours in the "
            "picture are neighbours in truth as far as the trustworthiness above says. Distances of groups mean nothing.",
            "Paths of restarts in a t-SNE plane of predictions, perplexity {perplexity:value}.",
        )  # fmt: skip


SECTION = Section(
    "function",
    "Do restarts compute the same function?",
    "Where weights differ, do predictions and representations differ too?",
    two_converged,
    write,
)
