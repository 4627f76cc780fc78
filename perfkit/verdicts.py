"""May a run be trusted? One answer, for reports, lists and the site alike, from run.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perfkit import fidelity
from perfkit.store import Run


@dataclass(frozen=True)
class RunVerdict:
    """word: `VALID INVALID UNCHECKED IMPORTED ABORTED RUNNING`; reasons: why it is not valid.

    thresholds, missed: as run.json has them (`text`, `value`, `ok`, `note`).
    """

    word: str
    reasons: tuple[str, ...]
    thresholds: tuple[Mapping[str, Any], ...]
    missed: tuple[Mapping[str, Any], ...]
    over_budget: bool  #: the generator disturbed what it measured, whatever else happened

    @property
    def level(self) -> Literal["good", "warn", "bad"]:
        """How a reader should take it."""
        if self.word not in ("VALID", "UNCHECKED", "IMPORTED"):
            return "bad"
        return "good" if self.word == "VALID" and not self.missed else "warn"

    @property
    def brief(self) -> str:
        """One word for a list: that of the report, or `missed` for a valid run that missed thresholds."""
        return "missed" if self.word == "VALID" and self.missed else self.word.lower()


def verdict_of(run: Run) -> RunVerdict:
    """The verdict of a run; whatever run.json holds, this does not fail on it."""
    state, health = run.state, run.meta.get("health")
    health = health if isinstance(health, Mapping) else {}
    if state != "complete":
        still = "it is still running; this is what there is so far" if state == "running" else ""
        word, reasons = state.upper(), [run.reason or still]
    elif health.get("valid") is False:
        told = health.get("reasons")
        reasons = [str(one) for one in told] if isinstance(told, list | tuple) else []
        word, reasons = "INVALID", reasons or ["the generator was over its budget"]
    elif fidelity.imported(run):
        word, reasons = "IMPORTED", [fidelity.words(run), *fidelity.lacks(run)]
    elif "valid" not in health:
        word, reasons = "UNCHECKED", ["the generator's health was not recorded"]
    else:
        word, reasons = "VALID", []
    listed = run.meta.get("thresholds")
    thresholds = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    missed = [one for one in thresholds if not one.get("ok")]
    return RunVerdict(
        word,
        tuple(reason for reason in reasons if reason),
        tuple(thresholds),
        tuple(missed),
        health.get("valid") is False,
    )
