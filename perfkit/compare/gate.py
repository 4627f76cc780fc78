"""A comparison for machines: exit code, JUnit XML, a Markdown summary for a pull request."""

from __future__ import annotations

import math
from collections.abc import Iterator

from perfkit.compare import Comparison, Result
from perfkit.compare.nouns import ratio_words, verdict_words
from perfkit.errors import EXIT_INCONCLUSIVE, EXIT_REGRESSED, EXIT_RUN_INVALID
from perfkit.junit import Case
from perfkit.junit import junit as junit_xml
from perfkit.text import for_markdown

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
        return "one run per side cannot distinguish a change from chance"
    return comparison.selection or "" if comparison.verdict != "regressed" else ""


def failing(comparison: Comparison, *, strict: bool = False) -> str:
    """That a gate does not pass, with its exit code and why in short; empty where it passes."""
    code = exit_code(comparison, strict=strict)
    if code == EXIT_REGRESSED:
        why = "regressed"
    elif code == EXIT_INCONCLUSIVE:
        why = "inconclusive, which --strict does not accept"
    else:
        why = _nothing_to_judge(comparison)
        if not comparison.refused:  # the runs stand in the verdict above
            why = why.partition(": ")[0]
    return f"gate: exit code {code}, does not pass: {why}" if code else ""


def junit(comparison: Comparison, *, strict: bool = False) -> str:
    """JUnit XML: a case for each primary metric, and one that says whether there was anything to judge."""
    return junit_xml("perfkit gate", _cases(comparison, strict))


def _cases(comparison: Comparison, strict: bool) -> Iterator[Case]:
    nothing = _nothing_to_judge(comparison)
    yield Case("runs can be compared", "error" if nothing else "passed", nothing)
    unjudged, failed = dict(comparison.unjudged), False
    primary = [one for one in comparison.results if one.primary]
    for one in primary:
        told = f"{one.metric} {one.verdict}: {comparison.change(one)}"
        undecided = one.verdict in ("inconclusive", "within-run only")
        if one.verdict == "regressed" or (strict and undecided and one.metric not in unjudged):
            failed = True
            yield Case(one.metric, "failure", told, told)
        elif undecided:
            why = unjudged.get(one.metric)
            yield Case(one.metric, "skipped", f"not judged: {why}" if why else told, told)
        else:
            yield Case(one.metric, output=told)
    there = {one.metric for one in primary}
    yield from (Case(m, "skipped", f"not judged: {why}") for m, why in comparison.unjudged if m not in there)
    if strict and comparison.verdict == "inconclusive" and not failed and not nothing:
        yield Case("verdict", "failure", comparison.words)


def markdown(comparison: Comparison, *, strict: bool = False) -> str:
    """A summary for a pull request; names cannot break out of it."""
    lines = [f"### perfkit: {comparison.verdict.upper()}", "", for_markdown(comparison.words), ""]
    if not_passed := failing(comparison, strict=strict):
        lines += [for_markdown(not_passed), ""]
    sides = (comparison.a, comparison.b)
    if comparison.results:
        lines += [
            f"| | metric | A | B | B ÷ A, {comparison.options.interval_level:.4g} % | verdict |",
            "|---|---|---:|---:|---:|---|",
        ]
        lines += [_row(one, comparison) for one in comparison.results if one.primary]
        design = f"{comparison.pairs} pairs" if comparison.pairs else (
            f"{len(comparison.a.runs)} and {len(comparison.b.runs)} runs"
        )  # fmt: skip
        names = ", ".join(f"{x}: {for_markdown(side.name)}" for x, side in zip("AB", sides, strict=True))
        lines += [
            "",
            f"{names}; {design}, the {comparison.part} of each; margin ±{comparison.options.margin:.0%}.",
        ]
    for run, why in [one for side in sides for one in side.left_out]:
        lines.append(f"- excluded: {for_markdown(run)}: {for_markdown('; '.join(why))}")
    lines += [f"- forced: {for_markdown(one)}" for one in comparison.forced]
    lines += [f"- note: {for_markdown(one)}" for one in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def _row(one: Result, comparison: Comparison) -> str:
    ratio = ratio_words(one, comparison.options)
    cells = [one.metric, level(one, one.a), level(one, one.b), ratio, verdict_words(one)]
    return f"| {' | '.join([_SIGNS.get(one.verdict, ''), *map(for_markdown, cells)])} |"


def level(one: Result, value: float) -> str:
    """A level with its unit."""
    if one.unit == "":
        return f"{value:.2%}"
    return "—" if not math.isfinite(value) else f"{value:.4g} {one.unit}"
