"""The report of one run."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.figures import style
from analysis.report import render
from analysis.report.findings import Finding, Findings, dumps, finding, loads
from analysis.report.interactive import NAME as SURFACE
from analysis.report.interactive import write_interactive
from analysis.report.section import Content, Section, Tell
from analysis.report.sections import SECTIONS
from analysis.statistics import LEVEL, interval_seeds
from wspace import store
from wspace.run import Run


class Chapter(NamedTuple):
    """A section with what it found; `missing` says in words why there is nothing."""

    section: Section
    content: Content
    missing: str | None


def write_report(
    run: Run,
    out: Path | None = None,
    *,
    sections: Sequence[Section] = SECTIONS,
    interactive: bool = False,
    tell: Tell = lambda text: None,
) -> Path:
    """Analyse a run, complete or not, and write index.html, findings.json and figures/.

    Args:
        run: what to report on; diverged and unfinished seeds are counted and left out of the analyses.
        out: folder, default `report` in the run's.
        sections: what to answer, in order.
        interactive: also write surface.html, a loss surface to turn, and link to it (needs the `interactive` extra).
        tell: hears what is being computed.

    Returns:
        Path of index.html, one file that stands alone.

    Raises:
        StoreError: the folder cannot be written, or the data is no longer what the run was trained on.
        ImportError: an interactive surface is asked for and plotly is not installed.
    """
    chapters = [_answer(section, run, tell) for section in sections]
    images = {p.name: style.svg(p.figure) for chapter in chapters for p in chapter.content.pictures}
    findings: Findings = {"summary": summary(run)}
    findings |= {chapter.section.id: chapter.content.findings for chapter in chapters}
    findings = loads(dumps(findings))  # the page knows what the file knows
    out = out or run.path / "report"
    surface = write_interactive(run, out, tell=tell) if interactive else None
    if surface is None:
        with store.writing(out):
            (out / SURFACE).unlink(missing_ok=True)  # one of an earlier report would not belong to this one
    html = render.render("report.html.j2", findings, images, chapters=chapters, surface=surface and surface.name)
    return render.write(out, html, findings, images)


def summary(run: Run) -> dict[str, Finding]:
    """The run's name, its question, and what became of its seeds."""
    num, diverged = len(run.seeds), run.diverged_at >= 0
    return {
        "name": finding(run.spec.name),
        "question": finding(run.spec.question),
        "seeds": finding(num, n=num),
        "trained_to_end": finding(int(run.converged().sum()), n=num),
        "diverged": finding(int(diverged.sum()), n=num),
        "unfinished": finding(int((~run.done[:, -1] & ~diverged).sum()), n=num),
        "interval_level": finding(round(100 * LEVEL), unit="%"),
        "interval_seeds": finding(interval_seeds()),
    }


def _answer(section: Section, run: Run, tell: Tell) -> Chapter:
    if missing := section.needs(run):
        return Chapter(section, Content(findings={}), missing)
    tell(section.title)
    rng = np.random.default_rng(zlib.crc32(section.id.encode()))
    return Chapter(section, section.write(run, rng, lambda text: tell(f"{section.title} {text}")), None)
