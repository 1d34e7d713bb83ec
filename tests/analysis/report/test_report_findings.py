import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.report.findings import dumps, fill, finding, interval, loads, number, phrase
from analysis.statistics import Estimate

NBSP, GROUP = "\u00a0", "\u202f"
FINDINGS = {
    "loss": finding(Estimate(0.25, (0.2, 0.3), 8, "nats")),
    "accuracy": finding(Estimate(0.5, None, 8, "share")),
    "seeds": finding(8, n=8),
    "name": finding('<b> & "x"'),
    "axes": finding(["a<b", "c"]),
}


def test_an_estimate_brings_its_interval_n_and_unit():
    assert FINDINGS["loss"] == {"value": 0.25, "ci": [0.2, 0.3], "n": 8, "unit": "nats"}
    assert FINDINGS["accuracy"] == {"value": 0.5, "ci": None, "n": 8, "unit": "share"}


def test_a_plain_value_has_no_interval():
    assert finding(3, n=4, unit="seeds") == {"value": 3, "ci": None, "n": 4, "unit": "seeds"}
    assert finding(True)["value"] is True
    assert finding(("a", "b"))["value"] == ["a", "b"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_can_be_reported(value):
    with pytest.raises(ValueError, match="only finite numbers can be reported"):
        finding(value)
    with pytest.raises(ValueError, match="only finite numbers"):
        finding(Estimate(value, None, 1))
    with pytest.raises(ValueError, match="only finite numbers"):
        finding(Estimate(1.0, (0.0, value), 3))


def test_findings_are_strict_json():
    text = dumps({"section": FINDINGS})
    assert loads(text) == {"section": FINDINGS}
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {"section": FINDINGS}
    with pytest.raises(ValueError, match="Out of range"):
        dumps({"section": {"x": {"value": math.nan, "ci": None, "n": 1, "unit": ""}}})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (0.0, "", "0"),
        (-0.0, "", "0"),
        (True, "", "yes"),
        (False, "", "no"),
        (12345, "", f"12{GROUP}345"),
        (-7, "", "−7"),
        (1234.5, "", f"1{GROUP}234"),
        (0.12345, "", "0.123"),
        (-0.0012345, "", "−0.00123"),
        (9.996, "", "10.00"),
        (0.00012345, "", f"1.23{NBSP}×{NBSP}10⁻⁴"),
        (-2.5e7, "", f"−2.50{NBSP}×{NBSP}10⁷"),
        (0.96936, "share", f"96.9{NBSP}%"),
        (1.0, "share", f"100{NBSP}%"),
        (0.0, "share", f"0{NBSP}%"),
        (2.14e-17, "share", f"2.14{NBSP}×{NBSP}10⁻¹⁵{NBSP}%"),
    ],
)
def test_numbers_as_people_read_them(value, unit, text):
    assert number(value, unit) == text


@given(st.floats(-1e300, 1e300, allow_subnormal=False))
def test_what_is_read_is_the_number_up_to_three_digits(value):
    text = number(value).replace(GROUP, "").replace("−", "-").replace(NBSP, "")
    if "×" in text:
        mantissa, power = text.split("×10")
        text = f"{mantissa}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}"
    assert float(text) == pytest.approx(value, rel=5.1e-3, abs=0)


def test_an_interval_has_the_digits_that_tell_its_ends_apart():
    assert interval([0.2, 0.3]) == f"[0.200,{NBSP}0.300]"
    assert interval([2.3061, 2.3149]) == f"[2.306,{NBSP}2.315]"
    assert interval([1.0, 1.0]) == f"[1.00,{NBSP}1.00]"
    assert interval([0.967, 0.972], "share") == f"[96.7{NBSP}%,{NBSP}97.2{NBSP}%]"


def test_the_forms_of_a_finding_in_prose():
    loss = FINDINGS["loss"]
    assert phrase(loss) == f"0.250{NBSP}nats{NBSP}[0.200,{NBSP}0.300]"
    assert phrase(loss, "value") == f"0.250{NBSP}nats"
    assert phrase(loss, "ci") == f"[0.200,{NBSP}0.300]"
    assert phrase(loss, "n") == "8"
    assert phrase(FINDINGS["accuracy"]) == f"50.0{NBSP}%"
    assert phrase(FINDINGS["accuracy"], "ci") == "none"
    assert phrase(FINDINGS["axes"]) == "a<b, c"


def test_prose_is_filled_and_says_where_each_number_comes_from():
    html = fill("Loss {loss:value} & {seeds} seeds.", "end", FINDINGS)
    assert html == (
        f'Loss <data value="0.25" data-finding="end.loss">0.250{NBSP}nats</data> &amp; '
        '<data value="8" data-finding="end.seeds">8</data> seeds.'
    )
    assert fill("{seeds} seeds", "end", FINDINGS, plain=True) == "8 seeds"


@pytest.mark.parametrize("text", ["3 seeds", "{seeds} of 10", "R2 {loss}", "top-5", "x 0.5"])
def test_prose_has_no_number_of_its_own(text):
    with pytest.raises(ValueError, match="section 'end' writes a number of its own"):
        fill(text, "end", FINDINGS)


def test_prose_names_only_findings_that_are_there():
    with pytest.raises(KeyError, match="nothing"):
        fill("{nothing}", "end", FINDINGS)


@pytest.mark.parametrize("plain", [True, False])
def test_everything_in_prose_is_escaped(plain):
    html = fill('<i> & "{name}" {axes}', "end", FINDINGS, plain=plain)
    assert "<i>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt; &amp; &#34;x&#34;" in html
    assert "a&lt;b, c" in html
