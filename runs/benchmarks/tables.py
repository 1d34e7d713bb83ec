"""Results as people read them: aligned Markdown tables, and the README that shows the latest."""

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")


def environment() -> dict[str, Any]:
    """When and on which machine something is measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{processor}, {num_cores()} cores, {platform.system()} {platform.machine()}",
        "wspace": importlib.metadata.version("wspace"),
    }


def heading(record: dict[str, Any]) -> str:
    """When, where and what, in one line."""
    return f"{record['date']}, {record['machine']}, wspace {record['wspace']}"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also aligned as plain text: the first column to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    return "\n".join(map(line, (header, rules, *rows)))


def show(section: str, markdown: str, path: Path = README) -> None:
    """Replace what stands between the README's markers of a section.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{path} has no place for {section}: the lines {begin!r} and {end!r} are expected")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{begin}\n\n{markdown.strip()}\n\n{end}", text), encoding="utf-8")
