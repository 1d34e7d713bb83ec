"""Section: what every layer makes of the examples, and how differently restarts do it."""

import numpy as np

from analysis.report.section import Content, Section, Tell, some_converged
from analysis.report.sections.representation.findings import find
from analysis.report.sections.representation.measured import measure
from analysis.report.sections.representation.pictures import draw
from analysis.report.sections.representation.words import headline, limits, reads, says, shows
from wspace.run import Run


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Probes with their controls, distances of classes, drawings of the layers of one restart, and a map of restarts."""
    found = measure(run, rng, tell)
    findings = find(found, rng)
    return Content(
        findings=findings,
        headline=headline(found),
        says=tuple(says(findings, found)),
        shows=shows(found),
        reads=reads(found),
        limits=limits(found),
        pictures=tuple(draw(findings, found)),
    )


SECTION = Section(
    "representation",
    "How do layers transform the data?",
    "What does every layer make of the examples, and do restarts do it alike?",
    some_converged,
    write,
)
