"""JUnit XML, which CI systems show: a suite of cases that passed, failed or could not be judged."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Literal, NamedTuple

from perfkit.text import for_xml


class Case(NamedTuple):
    """One case: what it is called and how it went; said: in words, empty for one that passed."""

    name: str
    outcome: Literal["passed", "failure", "error", "skipped"] = "passed"
    said: str = ""
    output: str = ""


def junit(name: str, cases: Iterable[Case]) -> str:
    """The cases as one suite of this name."""
    suite = ET.Element("testsuite", name=name)
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    plural = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    for one in cases:
        counts["tests"] += 1
        case = ET.SubElement(suite, "testcase", classname="perfkit", name=one.name)
        if one.outcome != "passed":
            counts[plural[one.outcome]] += 1
            ET.SubElement(case, one.outcome, message=one.said)
        if one.output:
            ET.SubElement(case, "system-out").text = one.output
    for attribute, count in counts.items():
        suite.set(attribute, str(count))
    root = ET.Element("testsuites")
    root.append(suite)
    for part in root.iter():
        part.attrib = {key: for_xml(words) for key, words in part.attrib.items()}
        part.text = for_xml(part.text or "")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
