"""From findings and prose to one HTML file without scripts or outside resources."""

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.report import findings as words
from analysis.report.findings import Findings
from wspace import store


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, findings: Findings, images: Mapping[str, bytes], **view: Any) -> str:
    """A page.

    Args:
        template: file name in `templates/`.
        findings: all numbers, names and texts of the run that the page may show.
        images: name -> SVG.
        view: the prose: sections, pictures, links.

    Raises:
        ValueError, KeyError: prose has a number of its own, or names a finding that is not there.
    """
    environment = _environment()
    style, _, _ = environment.loader.get_source(environment, "style.css")  # type: ignore[union-attr]

    def say(text: str, section: str) -> Markup:
        return words.fill(text, section, findings[section])

    def plain(text: str, section: str) -> Markup:
        return words.fill(text, section, findings[section], plain=True)

    def image(name: str) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(images[name]).decode()

    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(
        findings=findings, say=say, plain=plain, image=image, number=words.number, interval=words.interval,
        style=Markup(style), style_hash=digest, **view,
    )  # fmt: skip


def write(out: Path, html: str, findings: Findings, images: Mapping[str, bytes]) -> Path:
    """Put a report into its folder, each file whole or not at all, the page last.

    Returns:
        Path of index.html.

    Raises:
        StoreError: the folder cannot be written.
    """
    with store.writing(out):
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, content in images.items():
            store.replace_file(out / "figures" / f"{name}.svg", content)
        store.replace_file(out / "findings.json", words.dumps(findings).encode())
        store.replace_file(out / "index.html", html.encode())
    return out / "index.html"
