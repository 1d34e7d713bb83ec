"""Section: what units care about: templates, inputs they answer to, units that come back in other restarts."""

import dataclasses

import jax
import numpy as np

from analysis.alignment import align_universe
from analysis.figures import units as figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import alignment_study, all_equal, converged_params
from analysis.similarity import representations
from analysis.statistics import median
from analysis.units import (
    Matches,
    Recurrence,
    TopInputs,
    Types,
    deconvolutions,
    gradient_images,
    greatest_inputs,
    matches,
    recurrence,
    templates,
    top_inputs,
    types,
)
from wspace.models import ConvNet
from wspace.run import Run
from wspace.symmetry import act
from wspace.tree import Params, pick

MOST_SEEDS = 32  # whose templates are matched with inputs, and grouped into types
MOST_EXAMPLES = 1000
MOST_INPUTS = 20_000  # patches count
SHOWN_UNITS, SHOWN_SEEDS, SHOWN_BARS, MOST_BARS = 6, 4, 3, 30
FEWEST_RESTARTS = 3  # for units to come back
DEPTH = 2  # inputs shown for each unit of a deeper layer


@dataclasses.dataclass(frozen=True)
class Measured:
    """How inputs match (name -> one number a restart), what comes back (None where it cannot be asked), top inputs."""

    matches: dict[str, np.ndarray]
    num_examples: int
    recurrence: Recurrence | None
    types: Types | None
    aligned: np.ndarray
    layer: int
    top: TopInputs


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Templates of the first layer, inputs of a deeper one, and how many units recur."""
    ids, params = converged_params(run)
    found = measure(run, ids, params, rng, tell)
    findings = _findings(found, rng)
    image = isinstance(run.model, ConvNet) or _as_images(run, run.data.x_train[:1]) is not None
    return Content(
        findings=findings,
        headline="Of the first layer's units, {rate} come back in other restarts, where {expected} of untrained ones would "
        "({rate:n} seeds)."
        if found.recurrence
        else "",
        says=tuple(_says(findings, found)),
        shows="The weights that a unit of the first layer receives, its template, "
        + ("as images" if image else "as bars, one for each feature")
        + "; how inputs match templates, by dot product and by the cosine of the angle between them, on {examples} train "
        f"examples of {{seeds}} {plural(len(found.matches['same_top']), 'restart', 'restarts')}."
        + (
            " Restarts are aligned, so that matching units have one name; a unit comes back if it agrees with the mean of "
            "the others' beyond what nearly all units of untrained networks do after the same alignment."
            if found.recurrence
            else ""
        ),
        reads="A unit adds up its inputs, each times its weight: it answers most to inputs that are large where its "
        "template "
        "is large, with the same signs. "
        + ("Red is positive, blue negative, white zero; each image has a scale of its own. " if image else "")
        + "The sum is the product of three things: the length of the template, the length of the input, and the cosine "
        "between them. Only the cosine speaks of resemblance.",
        limits="A template shows what a unit of the first layer responds to, not what the network uses it for. "
        + (
            "For deeper layers there is no template: what is shown depends on the input, or on the place where an "
            "ascent began. "
            if found.layer > 0
            else ""
        )
        + "The input that raises a unit most need not look like any example. "
        + (
            "Units come back by their incoming weights alone; units that do the same by other weights are missed. The types "
            "depend on the threshold."
            if found.recurrence
            else ""
        ),
        pictures=tuple(_pictures(run, ids, params, found, findings, rng)),
        facts=tuple(_facts(findings)),
    )


def measure(run: Run, ids: list[int], params: Params, rng: np.random.Generator, tell: Tell) -> Measured:
    """Everything; recurrence for restarts that differ, of networks with hidden units."""
    num = min(len(ids), MOST_SEEDS)
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[:num], params)
    x = run.data.x_train[np.sort(rng.permutation(len(run.data.x_train))[: _num_examples(run)])]
    tell("matching inputs with templates")
    each = [_matching(matches(run.model, pick(some, seed), x)) for seed in range(num)]
    matched = {name: np.array([values[name] for values in each]) for name in each[0]}
    returned, kinds = None, None
    aligned = templates(params, run.data.input_shape)
    if run.model.symmetry.layers and len(ids) >= FEWEST_RESTARTS and not all_equal(params):
        study = alignment_study(run, tell)
        rows, symmetry = study.rows, run.model.symmetry
        if len(rows) >= FEWEST_RESTARTS:
            tell("aligning untrained networks")
            trained = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], params)
            untrained = run.params([ids[row] for row in rows], 0)
            null = act(symmetry, align_universe(symmetry, untrained, rng=rng).element, untrained)
            aligned = templates(act(symmetry, study.universe.element, trained), run.data.input_shape)
            flat = lambda images: images.reshape(*images.shape[:2], -1)  # noqa: E731
            null_units = flat(templates(null, run.data.input_shape))
            if not np.all(null_units == null_units[:1]):  # one init for all: nothing that could differ by chance
                returned = recurrence(flat(aligned), null_units, rng=rng)
                few = slice(MOST_SEEDS)
                kinds = types(flat(aligned)[few], null_units[few])
    layer = max(0, run.model.num_layers - 2)
    handed_on = representations(run.model, jax.tree.map(lambda leaf: leaf[:1], some), run.data.x_train)[layer]
    best = top_inputs(handed_on, min(DEPTH, len(run.data.x_train)))
    return Measured(matched, len(x), returned, kinds, aligned, layer, best)


def _matching(found: Matches) -> dict[str, float]:
    """Of one restart, medians over its units."""
    middle = lambda values: float(np.median(known)) if len(known := values[np.isfinite(values)]) else np.nan  # noqa: E731
    return {
        "same_top": found.same_top,
        "length_of_top": middle(found.length_of_top(found.dot)),
        "length_of_best_match": middle(found.length_of_top(found.cosine)),
        "told_by_dot": middle(found.told_by_dot),
        "told_by_cosine": middle(found.told_by_cosine),
        "share_of_norm": middle(found.share_of_norm),
    }


def _num_examples(run: Run) -> int:
    positions = np.prod(run.model.shape[:2]) if isinstance(run.model, ConvNet) else 1
    return min(len(run.data.x_train), MOST_EXAMPLES, max(10, int(MOST_INPUTS // positions)))


def _findings(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(found.matches["same_top"])
    findings = {"seeds": finding(num, n=num), "examples": finding(found.num_examples)}
    for name, each in found.matches.items():
        if len(known := each[np.isfinite(each)]):
            findings[name] = finding(median(known, rng=rng, unit="" if name.startswith("told") else "share"))
    if (returned := found.recurrence) is not None:
        findings |= {
            "rate": finding(returned.rate),
            "expected": finding(returned.expected, n=len(returned.null), unit="share"),
            "agreement": finding(median(np.median(returned.agreement, axis=1), rng=rng)),
            "agreement_untrained": finding(median(np.median(returned.null, axis=1), rng=rng)),
            "threshold": finding(returned.threshold, n=len(returned.null)),
            "always": finding(int(np.sum(returned.rates == 1)), n=len(returned.agreement)),
            "units": finding(returned.agreement.shape[1]),
        }
    if (kinds := found.types) is not None:
        common = (kinds.sizes > 1) & (kinds.spread > 1 / len(kinds.labels))
        findings |= {
            "types": finding(len(kinds.sizes), n=len(kinds.labels)),
            "common_types": finding(int(common.sum()), n=len(kinds.labels)),
            "grouped": finding(float(kinds.sizes[common].sum() / kinds.sizes.sum()), n=len(kinds.labels), unit="share"),
            "grouped_untrained": finding(
                float(kinds.null_sizes[kinds.null_sizes > 1].sum() / kinds.null_sizes.sum()),
                n=len(kinds.labels),
                unit="share",
            ),
            "largest_spread": finding(float(kinds.spread[0]), n=len(kinds.labels), unit="share"),
        }
    return findings


def _says(findings: dict[str, Finding], found: Measured):
    if {"told_by_dot", "told_by_cosine"} <= findings.keys():
        yield (
            "Over inputs, the activation of the median unit has a rank correlation of {told_by_dot} with the dot product of "
            "input and template, and of {told_by_cosine} with their cosine."
        )
    yield (
        "The input with the largest dot product is also the one with the largest cosine for {same_top} of the units. The "
        "median unit answers most to an input that is longer than {length_of_top} of all; its best match by cosine is "
        "longer than {length_of_best_match}."
    )
    if "share_of_norm" in findings:
        yield (
            "Of the variation of positive dot products, on a log scale, {share_of_norm} comes from the lengths of the "
            "inputs; the rest comes from the angle."
        )
    if found.recurrence:
        yield (
            "Of the {units} units of the first layer, {rate} come back in a restart, against {expected} by chance; {always} "
            "of them in every restart. The median cosine with the mean of the other restarts is {agreement}, of untrained "
            "networks {agreement_untrained}; beyond {threshold:value} a unit counts as coming back."
        )
    else:
        yield (
            "Whether units come back cannot be asked here: it takes several restarts that begin at different weights and "
            "have hidden units."
        )
    if found.types:
        yield (
            "Without any alignment, units of all restarts fall into types by the angles between them: {grouped} of them "
            "belong to a type that more than one restart has, in {common_types} types; of untrained networks "
            "{grouped_untrained} have another unit of their type. The largest type occurs in {largest_spread} of the "
            "restarts."
        )


def _facts(findings: dict[str, Finding]):
    yield "Restarts matched with inputs", "{seeds}"
    yield "Train examples", "{examples}"
    if "types" in findings:
        yield "Types of units", "{types}"


def _as_images(run: Run, values: np.ndarray) -> np.ndarray | None:
    """(..., *input shape) as (..., height, width), the mean over channels; None where inputs are no images."""
    shape = run.data.input_shape
    lead = values.shape[: values.ndim - len(shape)] if values.shape[-len(shape) :] == shape else values.shape[:-1]
    if len(shape) not in (2, 3) or min(shape[:2]) < 2:
        return None
    images = values.reshape(*lead, *shape)
    return images.mean(axis=-1) if len(shape) == 3 else images


def _chosen(found: Measured) -> np.ndarray:
    """Units to show: those that agree most with the other restarts, or the first ones."""
    if found.recurrence is None:
        return np.arange(min(SHOWN_UNITS, found.aligned.shape[1]))
    return np.argsort(-np.median(found.recurrence.agreement, axis=0), kind="stable")[:SHOWN_UNITS]


def _pictures(run: Run, ids: list[int], params: Params, found: Measured, findings: dict[str, Finding], rng):
    chosen = _chosen(found)
    names = [f"unit {unit + 1}" for unit in chosen]
    aligned = "aligned " if found.recurrence else ""
    seeds = range(min(SHOWN_SEEDS, len(found.aligned)))
    labels = [f"seed {ids[seed]}" for seed in seeds]
    shown = found.aligned[: len(labels), chosen]
    if found.recurrence is not None:
        consensus = found.recurrence.consensus[chosen].reshape(1, *shown.shape[1:])
        shown, labels = np.concatenate([consensus, shown]), ["all seeds", *labels]
    kernels = isinstance(run.model, ConvNet)
    sheet = shown.mean(axis=-1) if kernels else _as_images(run, shown)
    if sheet is not None:
        yield Picture(
            "templates",
            figures.images(sheet, labels, names, "Incoming weights"),
            f"Templates of the first layer: a row for each {aligned}restart, a column for each unit"
            + (", those first that agree most with the other restarts. " if found.recurrence else ". ")
            + "Each has a scale of its own; red is positive, blue negative, white zero."
            + (" Drawn is the mean over the channels of the inputs." if _colours(run) else "")
            + (" Above: the mean direction over all restarts." if found.recurrence else ""),
            "Images of incoming weights, a row a restart, a column a unit.",
        )
    else:
        weights = found.aligned[0][chosen[:SHOWN_BARS]].reshape(len(chosen[:SHOWN_BARS]), -1)
        kept = np.sort(np.argsort(-np.abs(weights).max(axis=0), kind="stable")[:MOST_BARS])
        yield Picture(
            "templates",
            figures.bars(
                weights[:, kept], [run.data.feature_names[k] for k in kept], names[:SHOWN_BARS], "Incoming weights"
            ),
            f"Templates of the first layer of one {aligned}restart: a bar for each feature, all on one scale"
            + ("" if len(kept) == run.data.num_features else ", of those features that have the largest weights")
            + ("; those units that agree most with the other restarts." if found.recurrence else "."),
            "Bars of incoming weights, a panel a unit.",
        )
    if found.recurrence:
        yield Picture(
            "recurrence",
            figures.recurrence(
                found.recurrence.agreement.ravel(), found.recurrence.null.ravel(), found.recurrence.threshold
            ),
            "Cosine of each unit's template with the mean of the other restarts' matched ones, all units of all restarts; "
            "grey: the same networks before training, aligned in the same way. Dashed: what few untrained units exceed.",
            "Histograms of agreement with other restarts: trained {agreement:value}, untrained {agreement_untrained:value}.",
        )
    if found.layer > 0 and _as_images(run, run.data.x_train[:1]) is not None:
        yield _deeper(run, params, found, rng)


def _colours(run: Run) -> bool:
    return len(run.data.input_shape) == 3 and run.data.input_shape[2] > 1


def _deeper(run: Run, params: Params, found: Measured, rng: np.random.Generator) -> Picture:
    """The last hidden layer of the first restart: strongest inputs, what they project to, and the greatest inputs."""
    one = pick(params, 0)
    strength = found.top.values[0, :, 0]
    order = np.argsort(-strength, kind="stable")[:SHOWN_UNITS]
    x = run.data.x_train[found.top.examples[0]]
    rows = {f"input {rank + 1}": x[:, rank] for rank in range(x.shape[1])}
    rows["gradient"] = gradient_images(run.model, one, x[:, :1], layer=found.layer)[:, 0]
    if run.model.activation == "relu":
        rows["deconvnet"] = deconvolutions(run.model, one, x[:, :1], layer=found.layer)[:, 0]
    radius = float(np.sqrt(np.mean(np.sum(np.square(run.data.x_train, dtype=np.float64), axis=1))))
    rows["greatest"] = greatest_inputs(
        run.model, one, run.data.num_features, layer=found.layer, radius=radius, rng=rng, num_starts=2
    ).best
    sheet = _as_images(run, np.stack([values[order] for values in rows.values()]))
    assert sheet is not None
    return Picture(
        "deeper",
        figures.images(sheet, list(rows), [f"unit {unit + 1}" for unit in order], "Units of the last hidden layer"),
        "One restart; the units of the last hidden layer that answer most to any train example. From above: the examples "
        "that a unit answers to most, as the network sees them; the gradient of its answer at the first of them"
        + ("; the same sent back by a deconvnet, rectified on its way; " if run.model.activation == "relu" else "; ")
        + "and the input, as long as a typical example, that raises what the unit receives most. Scales differ."
        + (" Drawn is the mean over the channels of the inputs." if _colours(run) else ""),
        "Images for units of the last hidden layer: strongest inputs, gradients, and inputs of greatest response.",
    )


SECTION = Section(
    "templates",
    "What does a unit care about?",
    "What do its incoming weights look like, which inputs does it answer to, and does it come back in other restarts?",
    some_converged,
    write,
)
