"""The page of one run: its numbers come from findings.json, it stands alone, and it says what a run cannot show."""

import json
import re
import shutil

import pytest
from matplotlib.figure import Figure
from report_pages import HOSTILE, Page, altered, check_alone, check_numbers, texts, toy

from analysis.report import write_report
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, anything
from analysis.report.sections import SECTIONS, alignment
from analysis.statistics import Estimate, interval_seeds
from wspace.errors import StoreError
from wspace.run import open_run
from wspace.train import train


def test_findings_have_the_documented_form(page):
    text = (json.dumps(page.findings, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"
    assert set(page.findings) == {"summary", *(section.id for section in SECTIONS)}
    for findings in page.findings.values():
        for name, item in findings.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
            assert list(item) == ["value", "ci", "n", "unit"]
            assert isinstance(item["value"], bool | int | float | str | list)
            assert item["ci"] is None or (len(item["ci"]) == 2 and item["ci"][0] <= item["ci"][1])
            assert isinstance(item["n"], int)
            assert item["n"] >= 1
            assert isinstance(item["unit"], str)
    assert "NaN" not in text
    assert "Infinity" not in text


def test_the_file_holds_what_the_run_holds(run, page):
    last = run.metrics["test_loss"][:, -1]
    item = page.findings["finals"]["test_loss"]
    assert item["value"] == pytest.approx(float(sorted(last)[2] + sorted(last)[3]) / 2)
    assert item["ci"][0] <= item["value"] <= item["ci"][1]
    assert (item["n"], item["unit"]) == (6, "nats")
    assert page.findings["distance"]["pairs"] == {"value": 15, "ci": None, "n": 6, "unit": ""}
    assert page.findings["line"]["endpoints_agree"]["value"] is True


def test_every_number_comes_from_the_findings(page):
    assert len(page.marks) > 100
    check_numbers(page)
    assert not re.search(r"\d", page.title)
    for image in page.get("img"):
        alt = str(image["alt"])
        numbers = {text for items in page.findings.values() for item in items.values() for text in texts(item)}
        for text in sorted(numbers, key=len, reverse=True):
            if re.search(r"\d", text):
                alt = alt.replace(text, "")
        assert not re.search(r"\d", alt), image["alt"]


def test_every_finding_is_on_the_page(page):
    shown = {mark.name for mark in page.marks}
    every = {f"{section}.{name}" for section, items in page.findings.items() for name in items}
    assert every - shown == {"summary.interval_seeds"}  # said only where seeds are few


def test_a_section_cannot_write_a_number_of_its_own(run, tmp_path):
    bad = Section("bad", "Bad", "Bad?", anything, lambda run, rng, tell: Content({}, says=("There are 12 minima.",)))
    with pytest.raises(ValueError, match="section 'bad' writes a number of its own"):
        write_report(run, tmp_path, sections=[bad])
    assert list(tmp_path.iterdir()) == []


def test_a_section_can_be_added(run, tmp_path):
    picture = Picture("bare", Figure(), "Caption of {seeds}.", "Nothing < is drawn.")
    content = Content(
        {"seeds": finding(6, n=6)}, "Head {seeds}.", ("Says.",), "Shows.", "Reads.", "Limits.", (picture,)
    )
    own = Section("own", "Own title", "Own?", anything, lambda run, rng, tell: content)
    page = Page(write_report(run, tmp_path, sections=[own]))
    for text in ("Head 6.", "Says.", "Shows.", "Reads.", "Limits.", "Caption of 6.", "Own title", "Own?"):
        assert text in page.text
    assert [image["alt"] for image in page.get("img")] == ["Nothing < is drawn."]
    assert set(page.findings) == {"summary", "own"}


def test_the_page_stands_alone(page):
    assert len(page.get("img")) == 73
    check_alone(page)


def test_every_section_says_how_to_read_it_and_what_it_does_not_say(page):
    answered = sum(page.findings[section.id] != {} for section in SECTIONS)
    assert answered == len(SECTIONS) - 1  # no images, no filters
    for heading in ("What is shown", "How to read it", "What it does not say"):
        assert page.text.count(heading) == answered


@pytest.mark.slow
def test_nothing_is_called_a_minimum(page):
    """The word occurs only where it is denied, and where certificates stand beside it."""
    allowed = ("certifies no minimum", "Nothing here counts minima", "separate minima, or minima at all")
    allowed += ("that two ends are one minimum", "certified to be a minimum")
    allowed += ("say nothing yet about minima",)
    before, _, rest = page.text.partition("How many minima are there? Which ends of training")
    census, _, after = rest.partition("How far does training travel?")
    for certified in ("6 strict minima, 0 degenerate minima, 0 saddles, 0 not converged", "not called a minimum"):
        assert certified in census
    text = before.replace("How many minima are there?", "") + after
    text = re.sub(r"Of 6 polished restarts [^.]*(?:\.\d[^.]*)*?certified minima;.*? by Chao's estimate\.", "", text)
    for words in allowed:
        assert words in text
        text = text.replace(words, "")
    assert not re.search(r"\bminim(um|a)\b|\bconverge", text)


def test_intervals_and_sample_sizes_are_stated(page):
    assert "Square brackets hold 95 % intervals from resampling seeds" in page.text
    headlines = page.text.split("In short")[1].split("Square brackets")[0]
    assert headlines.count("6 seeds)") == 11
    assert headlines.count("[") == 27
    assert "(one pair)" in headlines


def test_two_reports_of_one_run_are_the_same_bytes(run, page, tmp_path):
    write_report(run, tmp_path / "again")
    first = {path.relative_to(run.path / "report"): path for path in (run.path / "report").rglob("*") if path.is_file()}
    again = {path.relative_to(tmp_path / "again"): path for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert set(first) == set(again)
    assert len(first) == 75
    for name, path in first.items():
        assert path.read_bytes() == again[name].read_bytes(), name


def test_what_a_run_brings_is_escaped(run, page, tmp_path):
    shutil.copytree(run.path, tmp_path / "hostile", ignore=shutil.ignore_patterns("report"))
    path = tmp_path / "hostile" / "provenance.json"
    provenance = json.loads(path.read_text(encoding="utf-8"))
    provenance["data"]["name"] = HOSTILE
    provenance["commit"] = HOSTILE
    for session in provenance["sessions"]:
        session |= {"command": HOSTILE, "machine": HOSTILE, "devices": [HOSTILE], "flags": {"X": HOSTILE}}
        session["versions"]["python"] = HOSTILE
    path.write_text(json.dumps(provenance), encoding="utf-8")
    hostile = Page(write_report(open_run(tmp_path / "hostile")))
    assert "<script" not in hostile.source
    assert hostile.source.count("&lt;script&gt;") > page.source.count("&lt;script&gt;") + 10
    assert page.source.count("&lt;script&gt;") >= 2
    assert HOSTILE in hostile.text.split("In short")[0]
    assert f"Data {HOSTILE}" in hostile.text
    assert "{{ seven }}" in hostile.text  # nothing of a run is a template
    check_alone(hostile)
    check_numbers(hostile)


def summary(page):
    return page.text.split("In short")[1].split("Square brackets")[0]


def test_a_run_with_diverged_seeds_counts_and_leaves_them_out(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", diverged=[1, 4])))
    assert "2 of 6 seeds diverged and are left out of what follows" in summary(page)
    assert "Only 4 seeds were trained to the end. Below 6 seeds" in summary(page)
    assert f"the first at step {run.checkpoint_steps[1] + 1}" in page.text
    assert page.findings["finals"]["test_loss"]["n"] == 4
    assert page.findings["distance"]["pairs"]["value"] == 6
    assert page.findings["line"]["seed_b"]["value"] == "2"
    check_numbers(page)


def test_one_diverged_seed_is_one_seed(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", diverged=[0]), sections=SECTIONS[:2]))
    assert "1 of 6 seeds diverged and is left out of what follows" in summary(page)


def test_the_curves_of_a_diverged_seed_stop(run, tmp_path, monkeypatch):
    """Also those of its accuracy, which stays finite when all outputs are NaN."""
    from analysis.report.sections import training

    drawn = {}
    right = training.figures.curves
    monkeypatch.setattr(
        training.figures, "curves", lambda title, label, lines: drawn.update(lines) or right(title, label, lines)
    )
    spoilt = altered(run, tmp_path / "run", diverged=[1])
    write_report(spoilt, sections=SECTIONS[:1])
    for curve in drawn.values():
        assert (curve.values[1] == curve.values[1]).tolist() == [True, True, False, False]
        assert (curve.values[[0, 2, 3, 4, 5]] == curve.values[[0, 2, 3, 4, 5]]).all()


def test_a_run_whose_seeds_all_diverged_says_so(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", diverged=range(6))))
    assert "6 of 6 seeds diverged" in summary(page)
    assert "Not answered: “Where training ends”. No seed of this run has been trained to its end (all diverged)." in (
        summary(page)
    )
    assert summary(page).count("Not answered") == 17
    assert "No seed reached the end, so there is neither a median nor a band." in page.text
    assert page.findings["finals"] == page.findings["distance"] == page.findings["line"] == {}
    check_numbers(page)
    check_alone(page)


def test_an_incomplete_run_says_what_is_missing(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", unfinished=True)))
    assert "This run is not complete: 3 of 6 seeds are still to be trained." in summary(page)
    assert "the training command resumes them" in page.text
    assert page.findings["finals"]["test_loss"]["n"] == 3
    check_numbers(page)


def test_an_incomplete_run_without_an_end_says_why(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", diverged=[0, 1, 2], unfinished=True)))
    why = "(some diverged; training is not complete, and the training command resumes it)"
    assert f"No seed of this run has been trained to its end {why}." in summary(page)
    assert f"Fewer than two seeds of this run have been trained to their end {why}; comparing restarts takes two." in (
        summary(page)
    )


def test_a_single_seed_has_no_spread_and_no_neighbours(tmp_path):
    page = Page(write_report(train(toy(question="", seeds={"num": 1}), tmp_path / "run", num_devices=1)))
    assert page.text.startswith("Skip to the findings Report of a run that states no question toy seeds 1")
    assert summary(page).count("This run has a single seed; comparing restarts takes at least two.") == 6
    assert "This run has one seed." in page.text
    assert "A single seed has no spread: there is no interval" in page.text
    assert "1 seeds" not in page.text.split("In short")[1]
    assert all(item["ci"] is None for items in page.findings.values() for item in items.values())
    check_numbers(page)


def test_two_seeds_are_an_example(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", diverged=[0, 1, 2, 3])))
    assert "this is an example, not a distribution" in page.text
    assert "1 pairs" not in page.text
    assert page.findings["distance"]["end_distance"]["ci"] is None
    assert page.findings["distance"]["ratio_to_init"]["ci"] is None
    assert "Against the distance at which they started:" in page.text


def test_restarts_at_equal_weights_are_said_to_be_equal(run, tmp_path):
    page = Page(write_report(altered(run, tmp_path / "run", equal=True)))
    assert "All restarts end at exactly the same weights (6 seeds)." in summary(page)
    assert "have equal weights" in summary(page)
    assert "there is nothing to align" in page.text
    assert "Check failed: the losses at the ends differ from those stored" in page.text
    assert "Distrust this section." in page.text
    check_numbers(page)


@pytest.mark.parametrize(
    ("recovered", "failed", "words"),
    [
        (1.0, 0.0, "a failing matcher does not explain what remains"),
        (0.95, 0.5, "a failing matcher does not explain what remains"),
        (0.5, 0.5, "may in part be its failure, not a difference"),
        (0.5, 0.0, "neither sameness nor difference"),
    ],
)
def test_the_planted_control_says_what_it_supports(recovered, failed, words):
    findings = {
        "planted_recovered": finding(Estimate(recovered, None, 6, "share")),
        "planted_failed": finding(Estimate(failed, None, 6, "share")),
    }
    assert words in alignment._certificate(findings)


@pytest.mark.parametrize(
    ("trained", "scrambled", "untrained", "words"),
    [
        ((0.4, 0.5), (0.2, 0.3), (0.1, 0.2), "more in common"),
        ((0.4, 0.5), (0.35, 0.45), (0.1, 0.2), "no more in common"),
        ((0.2, 0.3), (0.4, 0.5), (0.35, 0.4), "less in common"),
        (None, None, None, "is the null model"),
    ],
)
def test_the_nulls_decide_what_alignment_is_said_to_find(trained, scrambled, untrained, words):
    intervals = {"removed": trained, "removed_scrambled": scrambled, "removed_untrained": untrained}
    findings = {name: finding(Estimate(0.3, ci, 6, "share")) for name, ci in intervals.items()}
    assert words in alignment._against_nulls(findings)


def test_a_control_that_cannot_be_planted_says_so():
    assert "can be told from noise" in alignment._certificate({})


def test_a_regression_without_hidden_layer(regression):
    page = Page(write_report(regression))
    assert "test R²" in summary(page)
    assert "no evidence against convexity on this line" in summary(page)
    assert "This model has no hidden layer: its loss is convex in the weights" in page.text
    assert "This does not prove that it is convex." in page.text
    assert "This model has no hidden units, so there is nothing to relabel" in page.text
    assert "accuracy" not in page.text
    assert "r2" not in page.text.replace("r_squared", "").split("The complete spec")[0]
    assert page.findings["line"]["train_objective_violates_jensen"]["value"] is False
    assert page.findings["finals"]["test_r_squared"]["unit"] == ""
    check_numbers(page)
    check_alone(page)


def test_the_fewest_seeds_for_an_interval():
    """1 - 2^(1-n) is the probability that n seeds lie on both sides of the median."""
    n = interval_seeds()
    assert 1 - 2.0 ** (1 - n) >= 0.95 > 1 - 2.0 ** (2 - n)


def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_report(run, tmp_path / "file", sections=SECTIONS[:0])
