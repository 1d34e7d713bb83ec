"""Section: weights are no probabilities; softmax outputs are, more or less."""

from typing import NamedTuple

import numpy as np

from analysis.figures import units as figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import converged_params
from analysis.similarity import outputs
from analysis.statistics import median
from analysis.units import Calibration, WeightFacts, calibration, weight_facts
from wspace.models import as_matrix
from wspace.run import Run
from wspace.tree import Params

NUM_BARS = 60
RANGE = (0.5, 99.5)  # percentiles of the weights that the histogram shows
MOST_LINES = 32  # restarts drawn


class Measured(NamedTuple):
    """Facts about weights, and how well calibrated the outputs are; of classifiers."""

    facts: WeightFacts
    sizes: np.ndarray
    calibration: Calibration | None


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Signs, ranges and sums of all weights; reliability of the softmax on the test set."""
    _, params = converged_params(run)
    found = measure(run, params, rng)
    findings = _findings(found, params, rng)
    classifier = found.calibration is not None
    return Content(
        findings=findings,
        headline="Weights are no probabilities: {negative} of them are negative, {outside} lie outside of the range from "
        f"zero to one ({{seeds:n}} {plural(len(found.facts.negative), 'seed', 'seeds')})."
        if _rules_out(findings)
        else "",
        says=tuple(_says(findings, classifier)),
        shows="Signs, ranges and sums of all weights, biases left out"
        + (
            "; and for the one place where this network does make probabilities, the softmax of its outputs, whether a "
            "class that is given a probability is right as often as it says, on {test_examples} test examples."
            if classifier
            else "."
        ),
        reads="Probabilities are never negative, never above one, and those of exclusive cases add up to one. "
        + (
            "Dots on the diagonal are calibrated; below it the network is too sure. With finitely many examples even "
            "perfectly calibrated outputs stray from it, by as much as is given beside the error."
            if classifier
            else "A weight is the strength of a connection: a factor, of either sign and any size."
        ),
        limits="That a layer's weights could be rescaled to lie between zero and one says nothing about what they mean. "
        + (
            "Calibration is that of the predicted class alone, in bins of equal width, on test examples like those "
            "trained on. Intervals know restarts, not examples."
            if classifier
            else "These networks are not trained to give probabilities, so that none of their outputs is compared with one."
        ),
        pictures=tuple(_pictures(found, params, findings)),
    )


def measure(run: Run, params: Params, rng: np.random.Generator) -> Measured:
    """Of all seeds."""
    sizes = np.array([as_matrix(layer["weight"][0]).size for layer in params])
    reliable = None
    if run.loss_kind == "cross_entropy":
        reliable = calibration(outputs(run.model, params, run.data.x_test), run.data.y_test, rng=rng)
    return Measured(weight_facts(params), sizes, reliable)


def _findings(found: Measured, params: Params, rng: np.random.Generator) -> dict[str, Finding]:
    facts, share = found.facts, found.sizes / found.sizes.sum()
    over = lambda values: median(values @ share, rng=rng, unit="share")  # noqa: E731 - of all weights of a restart
    senders = np.array([as_matrix(layer["weight"][0]).shape[0] for layer in params])
    units = np.array([layer["weight"].shape[-1] for layer in params])
    num = len(facts.negative)
    findings = {
        "seeds": finding(num, n=num),
        "weights": finding(int(found.sizes.sum())),
        "negative": finding(over(facts.negative)),
        "outside": finding(over(facts.outside)),
        "least": finding(float(facts.least.min()), n=num),
        "most": finding(float(facts.most.max()), n=num),
        "rows_to_one": finding(median(facts.rows_to_one @ (senders / senders.sum()), rng=rng, unit="share")),
        "columns_to_one": finding(median(facts.columns_to_one @ (units / units.sum()), rng=rng, unit="share")),
    }
    if (reliable := found.calibration) is not None:
        findings |= {
            "test_examples": finding(int(reliable.counts[0].sum())),
            "calibration_error": finding(median(reliable.error, rng=rng, unit="share")),
            "calibration_chance": finding(median(reliable.chance, rng=rng, unit="share")),
            "overconfidence": finding(median(reliable.overconfidence, rng=rng, unit="share")),
        }
    return findings


def _rules_out(findings: dict[str, Finding]) -> bool:
    return findings["outside"]["value"] > 0


def _says(findings: dict[str, Finding], classifier: bool):
    yield (
        "Of the {weights} weights of a restart, {negative} are negative and {outside} lie outside of the range from zero to "
        "one. All restarts together, they go from {least:value} to {most:value}."
    )
    yield (
        "The weights that leave one unit or input add up to one, nearly, in {rows_to_one} of the cases; those that "
        "enter one "
        "unit in {columns_to_one}."
    )
    if not _rules_out(findings):
        yield "Signs and ranges alone do not rule out probabilities here; the sums tell."
    if classifier:
        yield (
            "The softmax of the outputs makes probabilities by construction. Weighted by examples, the probability of the "
            "predicted class and the share of right predictions differ by {calibration_error}; perfectly calibrated outputs "
            "would show {calibration_chance} with as many examples. Mean probability less accuracy: {overconfidence}."
        )


def _pictures(found: Measured, params: Params, findings: dict[str, Finding]):
    names = [*(f"layer {layer + 1}" for layer in range(len(params) - 1)), "outputs"]
    every = np.concatenate([np.ravel(layer["weight"]) for layer in params])
    low, high = np.percentile(every, RANGE)
    edges = np.linspace(min(low, -0.05), max(high, 1.05), NUM_BARS + 1)
    yield Picture(
        "weights",
        figures.weights({n: (edges, _shares(layer["weight"], edges)) for n, layer in zip(names, params, strict=True)}),
        "Histograms of the weights of every layer, all restarts ({seeds}) together; a few weights at either end lie "
        "outside of "
        "the picture. Shaded: where probabilities would lie.",
        "Histograms of weights, a line a layer: {negative:value} are negative, {outside:value} are no possible "
        "probabilities.",
    )
    if (reliable := found.calibration) is not None:
        some = slice(MOST_LINES)
        yield Picture(
            "calibration",
            figures.reliability(reliable.confidence[some], reliable.accuracy[some], reliable.counts[some]),
            "Reliability on {test_examples} test examples: share of right predictions against the probability given to "
            "them, in "
            "bins of equal width; the area of a dot is the number of its examples, and small ones scatter widely.",
            "Reliability diagram; calibration error {calibration_error:value}, chance {calibration_chance:value}.",
        )


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges)[0] / np.size(values)


SECTION = Section(
    "probabilities",
    "Are weights probabilities?",
    "Could the weights be probabilities, and what does become one?",
    some_converged,
    write,
)
