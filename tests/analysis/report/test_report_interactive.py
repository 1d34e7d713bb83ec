"""The surface to turn: beside the report, only when asked for, refused before any work where plotly is missing."""

import re
import sys

import pytest
from report_pages import Page, altered

from analysis.report import write_report
from analysis.report.interactive import write_interactive
from analysis.report.sections import landscape


def test_the_page_links_to_the_surface_only_when_there_is_one(run, tmp_path):
    plain = Page(write_report(run, tmp_path / "plain", sections=[landscape.SECTION]))
    assert [a["href"] for a in plain.get("a") if str(a["href"]).endswith(".html")] == []
    assert not (tmp_path / "plain" / "surface.html").exists()
    page = Page(write_report(run, tmp_path / "turned", sections=[landscape.SECTION], interactive=True))
    assert [a["href"] for a in page.get("a") if str(a["href"]).endswith(".html")] == ["surface.html"]
    text = (tmp_path / "turned" / "surface.html").read_text(encoding="utf-8")
    assert "as trained" in text
    assert "aligned" in text
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)


def test_two_restarts_have_no_plane(run, tmp_path):
    few = altered(run, tmp_path / "run", diverged=[0, 1, 2, 3])
    assert write_interactive(few) is None
    page = Page(write_report(few, sections=[landscape.SECTION], interactive=True))
    assert [a["href"] for a in page.get("a") if str(a["href"]).endswith(".html")] == []


def test_a_missing_plotly_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match=r"pip install 'wspace\[interactive\]'"):
        write_interactive(run, tmp_path)
    assert list(tmp_path.iterdir()) == []
