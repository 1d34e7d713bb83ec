"""The report of a sweep: what the swept values change."""

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures import sweep as figures
from analysis.report import render
from analysis.report.findings import Finding, Findings, dumps, finding, loads
from analysis.report.page import interval_seeds
from analysis.report.section import Picture
from analysis.similarity import distances
from analysis.statistics import LEVEL, Estimate, median
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


def write_sweep_report(points: Points, out: Path) -> Path:
    """Compare the points of a sweep in one page: index.html, findings.json and figures/.

    Args:
        points: (swept values, run) in grid order; None for points not begun, which are named.
        out: folder of the page; links to the runs' own reports are relative to it.

    Returns:
        Path of index.html.

    Raises:
        ValueError: there are no points.
        StoreError: the folder cannot be written.
    """
    if not points:
        raise ValueError("write_sweep_report got no points; at least one is expected")
    keys = [f"point_{i + 1}" for i in range(len(points))]
    measured = [_measure(run) if run else None for _, run in points]
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
    pictures = _pictures(points, measured, fields)
    images = {picture.name: style.svg(picture.figure) for picture in pictures}
    findings = loads(dumps(findings))
    rows = [(key, f"{_link(run, out)}" if run else None) for key, (_, run) in zip(keys, points, strict=True)]
    columns = {key: label for key, label in COLUMNS.items() if any(key in findings[row] for row in keys)}
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


def _pictures(points: Points, measured: list[dict[str, Finding] | None], fields: list[str]) -> list[Picture]:
    """One panel for each column, against the numeric field with the most values; none when no field is numeric."""
    numeric = [field for field in fields if all(_is_number(values[field]) for values, _ in points)]
    if not numeric:
        return []
    axis = max(numeric, key=lambda field: len({values[field] for values, _ in points}))
    others = [field for field in fields if field != axis]
    pictures = []
    for column in ("test_loss", "test_accuracy", "test_r_squared", "ratio_to_travelled"):
        groups: dict[str, list[tuple[float, Estimate]]] = {}
        for (values, _), found in zip(points, measured, strict=True):
            if found and column in found:
                item = found[column]
                ci = (item["ci"][0], item["ci"][1]) if item["ci"] else None
                label = ", ".join(f"{field.split('.')[-1]} = {_value(values[field])}" for field in others)
                groups.setdefault(label, []).append(
                    (float(values[axis]), Estimate(item["value"], ci, item["n"], item["unit"]))
                )
        if not any(len(group) > 1 for group in groups.values()):
            continue
        label = COLUMNS[column]
        pictures.append(
            Picture(
                f"sweep-{column.replace('_', '-')}",
                figures.summary(label, axis.split(".")[-1].replace("_", " "), YLABELS[column], groups),
                f"{'Ratio of medians' if column == 'ratio_to_travelled' else 'Median'} over the seeds of each point that "
                "were trained to the end. Upright bars: intervals. Lines only guide the eye.",
                f"Line chart of the median {label[0].lower() + label[1:]} against {_words(axis)}; the table holds its "
                "numbers.",
            )
        )
    return pictures


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _words(field: str) -> str:
    """A field's name for prose, which has no digits of its own."""
    return "".join(c for c in field.replace("_", " ") if not c.isdigit())


def _value(value: Any) -> str:
    """A swept value as text: what was asked, not a measurement."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _link(run: Run, out: Path) -> str:
    return Path(os.path.relpath(run.path / "report" / "index.html", out)).as_posix()
