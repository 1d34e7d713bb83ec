"""The sections of a run's report, in the order in which they are read."""

from analysis.report.section import Section
from analysis.report.sections import alignment, distance, finals, line, provenance, training

SECTIONS: tuple[Section, ...] = (
    training.SECTION,
    finals.SECTION,
    distance.SECTION,
    alignment.SECTION,
    line.SECTION,
    provenance.SECTION,
)
