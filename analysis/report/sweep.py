"""The report of a sweep: what the swept values change."""

import dataclasses
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures import sweep as figures
from analysis.report import render
from analysis.report.findings import Finding, Findings, dumps, finding, loads
from analysis.report.section import Picture
from analysis.similarity import distances
from analysis.statistics import LEVEL, Estimate, interval_seeds, median
from analysis.training import metric_unit
from wspace.run import Run

Points = Sequence[tuple[dict[str, Any], Run | None]]

COLUMNS = {
    "train_loss": "Train loss",
    "test_loss": "Test loss",
    "test_accuracy": "Test accuracy",
    "test_r_squared": "Test R²",
    "ratio_to_travelled": "Distance ÷ travelled",
}

YLABELS = {
    "test_loss": "median test loss",
    "test_accuracy": "median test accuracy",
    "test_r_squared": "median test R²",
    "ratio_to_travelled": "ratio of medians",
}


@dataclasses.dataclass(frozen=True)
class Extra:
    """Something more that was measured at the points of a sweep: columns of the table, and lines in one figure.

    Attributes:
        name: letters and hyphens, of the figure's file.
        title: of the figure.
        ylabel: quantity of the figure's upright axis; its unit is added.
        lines: label -> an estimate for each point in grid order, None where there is none.
        caption: what the estimates are and what their intervals resample; prose without digits.
        colors: label -> colour; default: those of the cycle.
    """

    name: str
    title: str
    ylabel: str
    lines: Mapping[str, Sequence[Estimate | None]]
    caption: str
    colors: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def key(self, label: str) -> str:
        """Name of the finding behind a line."""
        return f"{self.name}_{label}".replace("-", "_").replace(" ", "_").lower()


def write_sweep_report(points: Points, out: Path, *, extras: Sequence[Extra] = ()) -> Path:
    """Compare the points of a sweep in one page: index.html, findings.json and figures/.

    Args:
        points: (swept values, run) in grid order; None for points not begun, which are named.
        out: folder of the page; links to the runs' own reports are relative to it.
        extras: what else was measured at the points.

    Returns:
        Path of index.html.

    Raises:
        ValueError: there are no points, or a line of `extras` has not one entry for each.
        StoreError: the folder cannot be written.
    """
    if not points:
        raise ValueError("write_sweep_report got no points; at least one is expected")
    keys = [f"point_{i + 1}" for i in range(len(points))]
    measured = [_measure(run) if run else None for _, run in points]
    for extra, label in _lines(extras):
        if len(extra.lines[label]) != len(points):
            raise ValueError(f"{extra.name}, {label}: {len(extra.lines[label])} estimates for {len(points)} points")
        for numbers, estimate in zip(measured, extra.lines[label], strict=True):
            if numbers is not None and estimate is not None:
                numbers[extra.key(label)] = finding(estimate)
    runs = [run for _, run in points if run]
    fields = list(points[0][0])
    findings: Findings = {
        "summary": {
            "name": finding(out.resolve().parent.name if not runs else runs[0].spec.name),
            "question": finding(runs[0].spec.question if runs else ""),
            "points": finding(len(points)),
            "begun": finding(len(runs)),
            "complete": finding(sum(run.complete for run in runs)),
            "diverged": finding(sum(int((run.diverged_at >= 0).sum()) for run in runs)),
            "few": finding(sum(1 < int(run.converged().sum()) < interval_seeds() for run in runs)),
            "interval_seeds": finding(interval_seeds()),
            "fields": finding(fields),
            "interval_level": finding(round(100 * LEVEL), unit="%"),
        }
    }
    for key, (values, _), numbers in zip(keys, points, measured, strict=True):
        swept = {f"value_{i + 1}": finding(_value(values[field])) for i, field in enumerate(fields)}
        findings[key] = swept | (numbers or {})
    pictures = _pictures(points, measured, fields, extras)
    images = {picture.name: style.svg(picture.figure) for picture in pictures}
    findings = loads(dumps(findings))
    rows = [(key, f"{_link(run, out)}" if run else None) for key, (_, run) in zip(keys, points, strict=True)]
    every = COLUMNS | {extra.key(label): f"{extra.title}, {label}" for extra, label in _lines(extras)}
    columns = {key: label for key, label in every.items() if any(key in findings[row] for row in keys)}
    html = render.render("sweep.html.j2", findings, images, rows=rows, columns=columns, pictures=pictures)
    return render.write(out, html, findings, images)


def _measure(run: Run) -> dict[str, Finding]:
    """What became of the seeds of one point, and the medians of those that converged."""
    converged, num = run.converged(), len(run.seeds)
    findings = {
        "seeds": finding(num, n=num),
        "trained_to_end": finding(int(converged.sum()), n=num),
        "diverged": finding(int((run.diverged_at >= 0).sum()), n=num),
    }
    if not converged.any():
        return findings
    rng = np.random.default_rng(zlib.crc32(b"sweep"))
    score = "test_accuracy" if run.task == "classification" else "test_r2"
    for name in ("train_loss", "test_loss", score):
        values = run.metrics[name][converged, -1].astype(np.float64)
        findings[name.replace("r2", "r_squared")] = finding(
            median(values, rng=rng, unit=metric_unit(name, run.loss_kind))
        )
    rows, last = np.flatnonzero(converged), len(run.checkpoint_steps) - 1
    first, final = (np.asarray(run.theta.oindex[rows, checkpoint]) for checkpoint in (0, last))
    ratio = distances(first, final, rng=rng).ratio
    return findings | ({"ratio_to_travelled": finding(ratio)} if ratio else {})


def _pictures(
    points: Points, measured: list[dict[str, Finding] | None], fields: list[str], extras: Sequence[Extra]
) -> list[Picture]:
    """One panel for each column, against the numeric field with the most values; none when no field is numeric."""
    numbers = {field: [_number(values[field]) for values, _ in points] for field in fields}
    numeric = {
        field: known
        for field, places in numbers.items()
        if len(known := [place for place in places if place is not None]) == len(points)
    }
    if not numeric:
        return []
    axis = max(numeric, key=lambda field: len(set(numeric[field])))
    others = [field for field in fields if field != axis]
    panels = [
        (column.replace("_", "-"), COLUMNS[column], YLABELS[column], {"": column}, "", {})
        for column in ("test_loss", "test_accuracy", "test_r_squared", "ratio_to_travelled")
    ] + [(e.name, e.title, e.ylabel, {label: e.key(label) for label in e.lines}, e.caption, e.colors) for e in extras]
    pictures = []
    for name, title, ylabel, lines, caption, colors in panels:
        groups: dict[str, list[tuple[float, Estimate]]] = {}
        for line, key in lines.items():
            for (values, _), found, place in zip(points, measured, numeric[axis], strict=True):
                if found and key in found:
                    item = found[key]
                    ci = (item["ci"][0], item["ci"][1]) if item["ci"] else None
                    swept = [f"{field.split('.')[-1]} = {_value(values[field])}" for field in others]
                    estimate = Estimate(item["value"], ci, item["n"], item["unit"])
                    groups.setdefault(", ".join([*filter(None, [line]), *swept]), []).append((place, estimate))
        if not any(len(group) > 1 for group in groups.values()):
            continue
        xlabel = "units in each hidden layer" if axis == "model.hidden" else axis.split(".")[-1].replace("_", " ")
        pictures.append(
            Picture(
                f"sweep-{name}",
                figures.summary(title, xlabel, ylabel, groups, colors),
                caption
                or f"{'Ratio of medians' if name == 'ratio-to-travelled' else 'Median'} over the seeds of each point that "
                "were trained to the end. Upright bars: intervals. Lines only guide the eye.",
                f"Line chart of the median {title[0].lower() + title[1:]} against {_words(axis)}; the table holds its "
                "numbers.",
            )
        )
    return pictures


def _lines(extras: Sequence[Extra]) -> list[tuple[Extra, str]]:
    return [(extra, label) for extra in extras for label in extra.lines]


def _number(value: Any) -> float | None:
    """A swept value as a place on an axis: a number, or what all entries of a list are; None for anything else."""
    if isinstance(value, list | tuple) and value:
        return _number(value[0]) if len(set(value)) == 1 else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _words(field: str) -> str:
    """A field's name for prose, which has no digits of its own."""
    return "".join(c for c in field.replace("_", " ") if not c.isdigit())


def _value(value: Any) -> str:
    """A swept value as text: what was asked, not a measurement."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _link(run: Run, out: Path) -> str:
    return Path(os.path.relpath(run.path / "report" / "index.html", out)).as_posix()
