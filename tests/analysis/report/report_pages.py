"""Toy runs and spoilt copies of them, and what a report's HTML says, mark by mark."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from analysis.report.findings import interval, number, phrase
from wspace import spec as specs
from wspace.run import Run, open_run

VOID = {"img", "meta", "wbr", "br", "link", "hr"}
RATES = (0.05, 0.5)
HOSTILE = "<script>alert(1)</script> & \"double\" 'single' {{ seven }} {seeds}?"


@dataclasses.dataclass
class Mark:
    """An element with `data-finding`: section.finding, its tag, `value` attribute and text."""

    name: str
    tag: str
    value: str | None
    text: str = ""


class Page(HTMLParser):
    """Marks, loose text (under no mark), tags with their attributes, and all visible text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.findings = json.loads((path.parent / "findings.json").read_text(encoding="utf-8"))
        self.marks: list[Mark] = []
        self.loose: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title, self.text = "", ""
        self._stack: list[tuple[str, Mark | None]] = []
        self.feed(self.source)
        self.close()
        assert self._stack == [], f"not closed: {self._stack}"
        self.text = " ".join(self.text.replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in VOID:
            return
        mark = self._stack[-1][1] if self._stack else None
        if name := found.get("data-finding"):
            mark = Mark(name, tag, found.get("value"))
            self.marks.append(mark)
        self._stack.append((tag, mark))

    def handle_endtag(self, tag):
        opened, _ = self._stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        self.text += " " if tag != "data" else ""

    def handle_data(self, data):
        tags = [tag for tag, _ in self._stack]
        if "style" in tags:
            return
        if "title" in tags:
            self.title += data
            return
        self.text += data
        mark = self._stack[-1][1] if self._stack else None
        if mark:
            mark.text += data
        elif data.strip():
            self.loose.append(data)

    def get(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def toy(**sections) -> specs.Spec:
    tree: dict[str, Any] = {
        "name": "toy",
        "question": HOSTILE,
        "data": {"name": "iris"},
        "model": {"hidden": [3], "activation": "tanh"},
        "objective": {"l2": 1e-3},
        "optimizer": {"learning_rate": 0.05},
        "train": {"num_steps": 24, "batch_size": 40},
        "checkpoints": {"num": 4},
        "seeds": {"num": 6},
        "engine": {"block_width": 3},
    }
    for key, value in sections.items():
        tree[key] = tree[key] | value if isinstance(value, dict) and key in tree else value
    return specs.parse(tree)


def altered(run: Run, out: Path, *, diverged=(), unfinished: bool = False, equal: bool = False) -> Run:
    """A copy of a run as if some seeds had diverged before the third checkpoint, the last block were still to be trained
    from the second one on, or all seeds had ended at the first one's weights."""
    shutil.copytree(run.path, out, ignore=shutil.ignore_patterns("report"))
    group = zarr.open_group(out / "run.zarr", mode="r+")
    arrays = {name: _array(group, name) for name in ("theta", "diverged_at", "done")}
    metrics = {name: _array(group, f"metrics/{name}") for name in run.metrics}
    for row in diverged:
        arrays["diverged_at"][row] = int(run.checkpoint_steps[1]) + 1
        arrays["theta"][row, 2:] = np.nan
        for name, metric in metrics.items():
            if "accuracy" not in name:  # of a network of NaNs it is finite, and means nothing
                metric[row, 2:] = np.nan
    if unfinished:
        arrays["done"][-1, 1:] = False
        arrays["theta"][3:, 1:] = np.nan
        for metric in metrics.values():
            metric[3:, 1:] = np.nan
    if equal:
        arrays["theta"][:, -1] = np.repeat(run.theta[:1, -1], len(run.seeds), axis=0)
    return open_run(out)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def texts(item):
    """All that a page may show of a finding."""
    shown = {phrase(item, form) for form in ("", "value", "ci", "n")}
    if isinstance(item["value"], str | list):
        return shown
    return shown | {number(item["value"], item["unit"]), interval(item["ci"], item["unit"]) if item["ci"] else "–"}


def check_numbers(page):
    """Every digit of the page is under a mark, and every mark shows its finding."""
    assert [text for text in page.loose if re.search(r"\d", text)] == []
    for mark in page.marks:
        section, name = mark.name.split(".")
        item = page.findings[section][name]
        if mark.tag == "code":
            assert mark.text == name
        elif mark.text != "–":
            assert mark.text in texts(item), mark
        if mark.tag == "data":
            value = item["value"]
            assert mark.value == ("; ".join(value) if isinstance(value, list) else str(value)), mark


def check_alone(page):
    """No script, and nothing from outside."""
    assert page.get("script") == page.get("link") == page.get("iframe") == page.get("object") == []
    assert "http:" not in page.source.replace("http-equiv", "")
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    for image in page.get("img"):
        assert str(image["src"]).startswith("data:image/svg+xml;base64,")
        assert len(str(image["alt"])) > 20
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    inner = [str(a["href"]) for a in page.get("a") if str(a["href"]).startswith("#")]
    assert {link[1:] for link in inner} <= ids
    (policy,) = [meta["content"] for meta in page.get("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
