"""What a section of the report is, and how to add one.

To add a section, write one module in `analysis/report/sections/` with a constant `SECTION = Section(...)`, and list it in
`analysis/report/sections/__init__.py`. Its `write(run, rng, tell)` calls an analysis, draws its figures and puts what it
found into `Content`: findings (the numbers) and prose that names them as `{finding}`, `{finding:value}`, `{finding:ci}` or
`{finding:n}`. Prose has no digits of its own; the page refuses them. What a degenerate run cannot show is said in words:
`needs` gives the reason, and `write` is then not called.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from analysis.report.findings import Finding
from wspace.run import Run

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and its words.

    Attributes:
        name: of the file, without folder and suffix.
        figure: the drawing.
        caption: what is drawn and its limits; prose with placeholders.
        alt: what a reader who cannot see it should know; prose with placeholders.
    """

    name: str
    figure: Figure
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Content:
    """What a section found in one run. All texts are prose with placeholders; each item of a tuple is a paragraph.

    Attributes:
        findings: name -> finding.
        headline: one plain sentence for the top of the report; empty for none.
        says: what it says here.
        shows: what is shown.
        reads: how to read it.
        limits: what it does not say.
        pictures: in order.
        facts: (label, text) rows of a table.
        listing: name of a finding whose text is shown as it is.
    """

    findings: dict[str, Finding]
    headline: str = ""
    says: tuple[str, ...] = ()
    shows: str = ""
    reads: str = ""
    limits: str = ""
    pictures: tuple[Picture, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    listing: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """One question of the report.

    Attributes:
        id: letters and hyphens; key in findings.json and anchor in the page.
        title: heading.
        question: what the reader wants to know.
        needs: says why a run cannot answer it, or None when it can.
        write: (run, rng, tell) -> what it found. The generator is the section's own, so that sections do not disturb each
            other; `tell` takes a line about what is being computed, for people who wait.
    """

    id: str
    title: str
    question: str
    needs: Callable[[Run], str | None]
    write: Callable[[Run, np.random.Generator, Tell], Content]


def anything(run: Run) -> str | None:
    """Every run has it."""
    return None


def some_converged(run: Run) -> str | None:
    """At least one seed trained to the end."""
    return None if run.converged().any() else f"No seed of this run has been trained to its end{_why(run)}."


def two_converged(run: Run) -> str | None:
    """At least two seeds trained to the end."""
    if run.converged().sum() >= 2:
        return None
    if len(run.seeds) == 1:
        return "This run has a single seed; comparing restarts takes at least two."
    return f"Fewer than two seeds of this run have been trained to their end{_why(run)}; comparing restarts takes two."


def plural(num: int, one: str, many: str) -> str:
    """The word that goes with a number of things."""
    return one if num == 1 else many


def varied(run: Run) -> str:
    """What differs between the restarts of a run, as a clause."""
    seeds, full_batch = run.spec.seeds, run.spec.train.batch_size == 0
    order = "nothing (each step sees all examples)" if full_batch else "the order of examples"
    if seeds.vary == "both":
        return "their starting points" if full_batch else "their starting points and the order of examples"
    return "their starting points" if seeds.vary == "init" else order


def _why(run: Run) -> str:
    reasons = []
    diverged = run.diverged_at >= 0
    if diverged.any():
        reasons.append("all diverged" if diverged.all() else "some diverged")
    if not run.complete:
        reasons.append("training is not complete, and the training command resumes it")
    return f" ({'; '.join(reasons)})" if reasons else ""
