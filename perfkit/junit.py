"""JUnit XML, which CI systems show: a suite of cases that passed, failed or could not be judged."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
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
    cases = list(cases)
    ended = Counter(one.outcome for one in cases)
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)), failures=str(ended["failure"]))
    suite.attrib |= {"errors": str(ended["error"]), "skipped": str(ended["skipped"])}
    for one in cases:
        case = ET.SubElement(suite, "testcase", classname="perfkit", name=one.name)
        if one.outcome != "passed":
            ET.SubElement(case, one.outcome, message=one.said)
        if one.output:
            ET.SubElement(case, "system-out").text = one.output
    root = ET.Element("testsuites")
    root.append(suite)
    for part in root.iter():
        part.attrib = {key: for_xml(words) for key, words in part.attrib.items()}
        part.text = for_xml(part.text or "")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
