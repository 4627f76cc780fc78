"""A comparison for machines: exit code, JUnit XML, a Markdown summary for a pull request."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from perfkit.comparison import Comparison, Result, change
from perfkit.errors import EXIT_INCONCLUSIVE, EXIT_REGRESSED, EXIT_RUN_INVALID

_SIGNS = {"regressed": "🔴", "improved": "🟢", "equivalent": "⚪", "inconclusive": "🟡"}


def exit_code(comparison: Comparison, *, strict: bool = False) -> int:
    """0 pass, 3 nothing to judge, 4 regressed, 5 inconclusive when `strict`."""
    if comparison.verdict == "regressed" and not comparison.forced:
        return EXIT_REGRESSED
    if _nothing_to_judge(comparison):
        return EXIT_RUN_INVALID
    return EXIT_INCONCLUSIVE if strict and comparison.verdict == "inconclusive" else 0


def _nothing_to_judge(comparison: Comparison) -> str:
    """Why a gate can neither pass nor fail on a comparison; empty when it can."""
    if comparison.refused:
        return "; ".join(comparison.refused)
    if comparison.forced:
        return f"forced, though not comparable: {'; '.join(comparison.forced)}"
    if comparison.verdict == "within-run only":
        return "one run on a side cannot tell a change from chance"
    return comparison.selection or "" if comparison.verdict != "regressed" else ""


def junit(comparison: Comparison, *, strict: bool = False) -> str:
    """JUnit XML: a case for each primary metric, and one that says whether there was anything to judge."""
    primary = [one for one in comparison.results if one.primary]
    suite = ET.Element("testsuite", name="perfkit gate")
    case = ET.SubElement(suite, "testcase", classname="perfkit", name="runs can be compared")
    nothing = _nothing_to_judge(comparison)
    if nothing:
        ET.SubElement(case, "error", message=_clean(nothing))
    unjudged = dict(comparison.unjudged)
    failures = 0
    for one in primary:
        case = ET.SubElement(suite, "testcase", classname="perfkit", name=one.metric)
        told = _clean(f"{one.metric} {one.verdict}: {change(one)}")
        undecided = one.verdict in ("inconclusive", "within-run only")
        if one.verdict == "regressed" or (strict and undecided and one.metric not in unjudged):
            failures += 1
            ET.SubElement(case, "failure", message=told)
        elif undecided:
            why = unjudged.get(one.metric)
            ET.SubElement(case, "skipped", message=f"not judged: {_clean(why)}" if why else told)
        ET.SubElement(case, "system-out").text = told
    cases = {one.metric for one in primary}
    for metric, why in comparison.unjudged:
        if metric not in cases:
            case = ET.SubElement(suite, "testcase", classname="perfkit", name=metric)
            ET.SubElement(case, "skipped", message=f"not judged: {_clean(why)}")
    if strict and comparison.verdict == "inconclusive" and not failures and not nothing:
        failures += 1
        case = ET.SubElement(suite, "testcase", classname="perfkit", name="verdict")
        ET.SubElement(case, "failure", message=_clean(comparison.words))
    counts = {"tests": len(suite), "failures": failures, "errors": int(bool(nothing))}
    for name, count in counts.items():
        suite.set(name, str(count))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """Without characters XML cannot carry."""
    return "".join(c if c.isprintable() else " " for c in text)


def markdown(comparison: Comparison) -> str:
    """A summary for a pull request; names cannot break out of it."""
    lines = [f"### perfkit: {comparison.verdict.upper()}", "", _escaped(comparison.words), ""]
    if comparison.results:
        lines += ["| | metric | A | B | B ÷ A, 95 % | verdict |", "|---|---|---:|---:|---:|---|"]
        lines += [_row(one) for one in comparison.results if one.primary]
        design = f"{comparison.pairs} pairs" if comparison.pairs else (
            f"{len(comparison.a.runs)} and {len(comparison.b.runs)} runs"
        )  # fmt: skip
        lines += ["", f"A: {_escaped(comparison.a.name)}, B: {_escaped(comparison.b.name)}; {design}, "
                  f"margin ±{comparison.options.margin:.0%}."]  # fmt: skip
    left = [*comparison.a.left_out, *comparison.b.left_out]
    lines += [f"- left out: {_escaped(run)}: {_escaped('; '.join(why))}" for run, why in left]
    lines += [f"- forced: {_escaped(one)}" for one in comparison.forced]
    lines += [f"- note: {_escaped(one)}" for one in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def _row(one: Result) -> str:
    cells = [
        _SIGNS.get(one.verdict, ""),
        one.metric,
        level(one, one.a),
        level(one, one.b),
        change(one),
        one.verdict,
    ]
    return f"| {' | '.join(cells)} |"


def level(one: Result, value: float) -> str:
    """A level with its unit."""
    if one.unit == "":
        return f"{value:.2%}"
    return "—" if not math.isfinite(value) else f"{value:.4g} {one.unit}"


def _escaped(text: str) -> str:
    """Words, never markup: names come from files and servers."""
    plain = _clean(text)
    for sign in "\\`*_[]<>|#@":
        plain = plain.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return plain
