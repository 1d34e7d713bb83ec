"""The sections of a run's report, in the order in which they are read."""

from analysis.report.section import Section
from analysis.report.sections import (
    alignment,
    census,
    connectivity,
    convexity,
    curvature,
    distance,
    finals,
    function,
    influence,
    landscape,
    line,
    probabilities,
    provenance,
    representation,
    templates,
    training,
    trajectory,
    travel,
)

SECTIONS: tuple[Section, ...] = (
    training.SECTION,
    finals.SECTION,
    distance.SECTION,
    alignment.SECTION,
    line.SECTION,
    convexity.SECTION,
    landscape.SECTION,
    connectivity.SECTION,
    curvature.SECTION,
    census.SECTION,
    travel.SECTION,
    trajectory.SECTION,
    function.SECTION,
    representation.SECTION,
    templates.SECTION,
    influence.SECTION,
    probabilities.SECTION,
    provenance.SECTION,
)
