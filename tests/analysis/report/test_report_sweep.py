"""The page that compares the points of a sweep."""

import math

import numpy as np
import pytest
from report_pages import HOSTILE, RATES, Page, altered, check_alone

from analysis.report import write_report, write_sweep_report
from analysis.report.findings import phrase
from analysis.similarity import distances


@pytest.fixture(scope="module")
def page(sweep):
    out, points = sweep
    for _, run in points:
        write_report(run, sections=())  # what the links lead to
    return Page(write_sweep_report(points, out / "report"))


def check_numbers(page):
    """Loose text has no digits, and a mark shows its finding."""
    assert [text for text in page.loose if any(c.isdigit() for c in text)] == []
    for mark in page.marks:
        section, name = mark.name.split(".")
        item = page.findings[section][name]
        shown = {phrase(item, form) for form in ("", "value", "ci", "n")}
        if mark.tag == "span":
            place = int(name.removeprefix("value_")) - 1
            shown = {f"{page.findings['summary']['fields']['value'][place]} = {item['value']}"}
        elif name == "fields" and mark.tag == "th":
            shown = set(item["value"])
        assert mark.text in shown, mark


def test_every_point_is_measured(sweep, page):
    _, points = sweep
    assert page.findings["summary"]["fields"]["value"] == ["optimizer.learning_rate"]
    for i, (rate, (values, run)) in enumerate(zip(RATES, points, strict=True)):
        found = page.findings[f"point_{i + 1}"]
        assert found["value_1"]["value"] == str(values["optimizer.learning_rate"]) == str(rate)
        assert found["test_loss"]["value"] == pytest.approx(float(np.median(run.metrics["test_loss"][:, -1])))
        assert found["test_accuracy"]["n"] == found["seeds"]["value"] == found["trained_to_end"]["value"] == 6
        ratio = distances(run.theta[:, 0], run.theta[:, -1], rng=np.random.default_rng(0)).ratio
        assert ratio is not None
        assert found["ratio_to_travelled"]["value"] == pytest.approx(ratio.value)


def test_every_number_comes_from_the_findings_and_the_page_stands_alone(page):
    check_numbers(page)
    check_alone(page)
    assert len(page.get("img")) == 3
    assert "Square brackets hold 95 % intervals" in page.text
    assert "nothing is corrected for that" in page.text


def test_it_links_to_the_runs(sweep, page):
    out, points = sweep
    links = [str(a["href"]) for a in page.get("a") if not str(a["href"]).startswith("#")]
    assert links == [f"../{run.path.name}/report/index.html" for _, run in points]
    assert all((out / "report" / link).is_file() for link in links)


def test_what_the_spec_brings_is_escaped(page):
    assert "<script" not in page.source
    assert HOSTILE in page.text


def test_two_reports_are_the_same_bytes(sweep, page):
    out, points = sweep
    before = {path: path.read_bytes() for path in (out / "report").rglob("*") if path.is_file()}
    write_sweep_report(points, out / "report")
    assert {path: path.read_bytes() for path in (out / "report").rglob("*") if path.is_file()} == before
    assert len(before) == 5


def test_points_not_begun_are_named(sweep, tmp_path):
    _, ((first, run), (second, _)) = sweep
    page = Page(write_sweep_report([(first, run), (second, None)], tmp_path))
    assert "Not begun, and missing from what follows: optimizer.learning_rate = 0.5" in page.text
    assert page.findings["summary"]["begun"]["value"] == 1
    assert page.get("img") == []  # one point makes no curve
    check_numbers(page)


def test_a_sweep_of_which_nothing_is_begun(tmp_path):
    page = Page(write_sweep_report([({"model.activation": "relu"}, None)], tmp_path / "name" / "report"))
    assert page.text.startswith("Skip to the findings Report of a sweep that states no question name")
    assert page.text.count("not begun") == 1


def test_diverged_seeds_are_counted_and_left_out(sweep, tmp_path):
    _, ((first, run), (second, other)) = sweep
    some = altered(run, tmp_path / "some", diverged=[0, 1])
    none = altered(other, tmp_path / "none", diverged=range(6))
    page = Page(write_sweep_report([(first, some), (second, none)], tmp_path / "report"))
    assert page.findings["summary"]["diverged"]["value"] == 8
    assert page.findings["point_1"]["test_loss"]["n"] == 4
    assert "test_loss" not in page.findings["point_2"]
    assert "not available" in page.text
    assert "Points with fewer than 6 seeds trained to the end: 1." in page.text
    check_numbers(page)


def test_fields_that_are_no_numbers_have_no_curve(sweep, tmp_path):
    _, ((_, run), (_, other)) = sweep
    points = [
        ({"model.hidden": (3,), "data.noise": math.nan}, run),
        ({"model.hidden": (3, 3), "data.noise": 0.1}, other),
    ]
    page = Page(write_sweep_report(points, tmp_path / "report"))
    assert page.get("img") == []
    assert page.findings["point_2"]["value_1"]["value"] == "3 3"
    check_numbers(page)


def test_no_points_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got no points"):
        write_sweep_report([], tmp_path)
