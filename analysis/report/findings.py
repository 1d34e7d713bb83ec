"""Findings: what a report says, as strict JSON, and the words and marks that say it.

Every number, name and text that comes from the run reaches a page through a finding; prose only names it. A finding is
{"value": number | string | list, "ci": [low, high] | null, "n": int, "unit": str}.
"""

import json
import math
import re
import string
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from analysis.statistics import Estimate

Finding = dict[str, Any]
Findings = dict[str, dict[str, Finding]]

NBSP = "\u00a0"
GROUP = "\u202f"  # a narrow space between thousands: a comma would be mistaken for that of an interval
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def finding(value: "Estimate | bool | int | float | str | Sequence[str]", *, n: int = 1, unit: str = "") -> Finding:
    """A finding from an estimate, or from a plain value.

    Args:
        value: an Estimate brings its own interval, n and unit.
        n: number of seeds behind a plain value (1 for a fact about the run).
        unit: of a plain value.

    Raises:
        ValueError: a number is not finite: what is not available is left out and said in words.
    """
    if isinstance(value, Estimate):
        ci = None if value.ci is None else [float(end) for end in value.ci]
        numbers, result = (
            [value.value, *(ci or [])],
            Finding(value=float(value.value), ci=ci, n=value.n, unit=value.unit),
        )
    else:
        plain = value if isinstance(value, bool | int | float | str) else list(value)
        numbers, result = [value] if isinstance(value, float) else [], Finding(value=plain, ci=None, n=n, unit=unit)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"a finding is {value}: only finite numbers can be reported")
    return result


def dumps(findings: Findings) -> str:
    """Strict JSON, the same text for the same findings."""
    return json.dumps(findings, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str) -> Findings:
    """Inverse of `dumps`."""
    return json.loads(text)


def number(value: float, unit: str = "", digits: int = 3) -> str:
    """A number as people read it: 3 significant digits, thousands grouped, shares in percent, powers of ten spelt out."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "share":
        return f"{_plain_or_power(100 * value, digits)}{NBSP}%"
    if isinstance(value, int):
        return f"{value:,}".replace(",", GROUP).replace("-", "−")
    return _plain_or_power(value, digits)


def interval(ci: Sequence[float], unit: str = "") -> str:
    """[low, high], with as many digits as tell the ends apart."""
    digits = 3
    low, high = (number(end, unit, digits) for end in ci)
    while low == high and ci[0] != ci[1] and digits < 6:
        digits += 1
        low, high = (number(end, unit, digits) for end in ci)
    return f"[{low},{NBSP}{high}]"


def phrase(item: Finding, form: str = "") -> str:
    """A finding in running text. Forms: `` value, unit and interval; `value` without interval; `ci`; `n`."""
    value, unit = item["value"], item["unit"]
    if form == "n":
        return number(item["n"])
    if form == "ci":
        return interval(item["ci"], unit) if item["ci"] else "none"
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, str):
        return value
    text = number(value, unit) + (f"{NBSP}{unit}" if unit not in ("", "share") else "")
    return f"{text}{NBSP}{interval(item['ci'], unit)}" if item["ci"] and form != "value" else text


def fill(text: str, section: str, findings: dict[str, Finding], *, plain: bool = False) -> Markup:
    """Prose with its placeholders `{finding}` or `{finding:form}` filled in and everything escaped.

    Args:
        text: prose without digits of its own.
        section: whose findings they are; marks where each number comes from.
        findings: of that section.
        plain: for attributes and files: no markup around the findings.

    Raises:
        ValueError: the prose holds a digit that is not from a finding.
        KeyError: there is no such finding.
    """
    parts = []
    for literal, name, form, _ in string.Formatter().parse(text):
        if re.search(r"\d", literal):
            raise ValueError(
                f"section {section!r} writes a number of its own, it must come from a finding: {literal!r}"
            )
        parts.append(escape(literal))
        if name is not None:
            words = escape(phrase(findings[name], form or ""))
            mark = Markup('<data value="{}" data-finding="{}.{}">{}</data>')
            parts.append(words if plain else mark.format(_machine(findings[name]), section, name, words))
    return Markup("").join(parts)


def _machine(item: Finding) -> str:
    value = item["value"]
    return "; ".join(value) if isinstance(value, list) else str(value)


def _plain_or_power(value: float, digits: int) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}{NBSP}×{NBSP}10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")
    return _significant(value, digits)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    whole = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{whole}f}".replace(",", GROUP).replace("-", "−")
