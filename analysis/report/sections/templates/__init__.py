"""Section: what units care about: templates, inputs they answer to, units that come back in other restarts."""

import numpy as np

from analysis.report.findings import Finding
from analysis.report.section import Content, Section, Tell, plural, some_converged
from analysis.report.sections.templates.measured import Measured, find, measure
from analysis.report.sections.templates.pictures import colours, draw
from analysis.report.shared import as_images, converged_params
from wspace.models import ConvNet
from wspace.run import Run

SATURATED = 0.999  # a cosine that leaves nothing above it


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Templates of the first layer, inputs of a deeper one, and how many units recur."""
    ids, params = converged_params(run)
    found = measure(run, ids, params, rng, tell)
    findings = find(found, rng)
    image = isinstance(run.model, ConvNet) or as_images(run, run.data.x_train[:1]) is not None
    return Content(
        findings=findings,
        headline="Of the first layer's units, {rate} come back in other restarts beyond what units with the same mean and "
        "covariance would, of which {expected:value} do by chance ({rate:n} seeds)."
        if found.recurrence and findings["threshold"]["value"] <= SATURATED
        else "",
        says=tuple(_says(findings, found)),
        shows="The weights that a unit of the first layer receives, its template, "
        + ("as images" if image else "as bars, one for each feature")
        + "; how inputs match templates, by dot product and by the cosine of the angle between them, on {examples} train "
        f"examples of {{seeds}} {plural(len(found.matches['same_top']), 'restart', 'restarts')}."
        + (
            " Restarts are aligned, so that matching units have one name; a unit comes back if it agrees with the mean of "
            "the others' beyond what nearly all units of a null do after the same alignment. There are two: the networks "
            "before training, and surrogates, units drawn at random with the mean and the covariance of the trained ones."
            if found.recurrence
            else ""
        ),
        reads="A unit adds up its inputs, each times its weight: it answers most to inputs that are large where its "
        "template is large, with the same signs. "
        + (f"In images, of which each has a scale of its own, {colours(run)} " if image else "")
        + (
            "Inputs are standardised: each less its mean, over its standard deviation. "
            if run.spec.data.standardize
            else ""
        )
        + "The sum is the product of three things: the length of the template, the length of the input, and the cosine "
        "between them. Only the cosine speaks of resemblance."
        + (
            " Trained units are all alike in using the same inputs, which untrained ones do not: what comes back beyond "
            "untrained units may be that alone. What comes back beyond surrogates is more."
            if found.recurrence
            else ""
        ),
        limits="A template shows what a unit of the first layer responds to, not what the network uses it for. "
        + (
            "For deeper layers there is no template: what is shown depends on the input, or on the place where an "
            "ascent began. "
            if found.layer > 0
            else ""
        )
        + "The input that raises a unit most need not look like any example. "
        + (
            "Units come back by their incoming weights alone; units that do the same by other weights are missed. "
            "Surrogates are Gaussian and drawn once: what comes back beyond them may still be statistics that they do not "
            "have. The types depend on the threshold."
            if found.recurrence
            else ""
        ),
        pictures=tuple(draw(run, params, found, rng)),
        facts=tuple(_facts(findings)),
    )


def _says(findings: dict[str, Finding], found: Measured):
    if {"told_by_dot", "told_by_cosine"} <= findings.keys():
        yield (
            "Over inputs, the activation of the median unit has a rank correlation of {told_by_dot} with the dot product of "
            "input and template, and of {told_by_cosine} with their cosine."
        )
    if "same_top" in findings:
        yield (
            "The input with the largest dot product is also the one with the largest cosine for {same_top} of the units. "
            "The median unit answers most to an input that is longer than {length_of_top} of all; its best match by cosine "
            "is longer than {length_of_best_match}."
        )
    if "share_of_norm" in findings:
        yield (
            "Of the variation of positive dot products, on a log scale, {share_of_norm} comes from the lengths of the "
            "inputs; the rest comes from the angle."
        )
    if found.recurrence:
        yield (
            "Of the units of the first layer, {units} in number, {rate_untrained} come back in a restart beyond untrained "
            "ones, against {expected_untrained} by chance, and {rate} beyond surrogates, against {expected}; {always} of "
            "them in every restart. The median cosine with the mean of the other restarts is {agreement}, of untrained "
            "networks {agreement_untrained} and of surrogates {agreement_drawn}; beyond {threshold:value} a unit counts as "
            "coming back."
        )
        if findings["threshold"]["value"] > SATURATED:
            yield (
                "Surrogates agree as well as anything can: with so few inputs units are alike whatever they are, and "
                "whether they come back cannot be told."
            )
    else:
        yield (
            "Whether units come back cannot be asked here: it takes several restarts that begin at different weights and "
            "have hidden units."
        )
    if found.types:
        yield (
            "By the angles between them, units of all restarts fall into types, which ask for no matching: {grouped} of a "
            "restart's units belong to a type that another restart has as well, of surrogates {grouped_drawn}. "
            "Of the types, {common_types} occur in more than one restart; the most common one in {largest_spread} of them."
        )


def _facts(findings: dict[str, Finding]):
    yield "Restarts matched with inputs", "{seeds}"
    yield "Train examples", "{examples}"
    if "types" in findings:
        yield "Types of units", "{types}"


SECTION = Section(
    "templates",
    "What does a unit care about?",
    "What do its incoming weights look like, which inputs does it answer to, and does it come back in other restarts?",
    some_converged,
    write,
)
