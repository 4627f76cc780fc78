"""May a run be trusted? The one answer, which exit codes, lists, pages and comparisons ask.

From run.json alone, so that a list of runs reads no rows; a comparison may add reasons, it overrules none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from perfkit.errors import (
    EXIT_OK,
    EXIT_RUN_INVALID,
    EXIT_THRESHOLDS_MISSED,
    EXIT_TOOL_ERROR,
    INTERRUPTIONS,
)
from perfkit.store import fidelity
from perfkit.store.metadata import Metadata, Results, ThresholdResult
from perfkit.text import plural

if TYPE_CHECKING:
    from perfkit.store.reading import Run

Word = Literal[
    "VALID", "IMPORTED", "FAILED", "BROKEN", "INVALID", "DAMAGED", "UNCHECKED", "ABORTED", "RUNNING"
]
#: Words of runs whose numbers may stand beside those of others.
_SOUND = ("VALID", "IMPORTED")
_EXIT_CODES = {
    **dict.fromkeys(("FAILED", "INVALID", "DAMAGED", "UNCHECKED"), EXIT_RUN_INVALID),
    **dict.fromkeys(("BROKEN", "RUNNING"), EXIT_TOOL_ERROR),
}


@dataclass(frozen=True)
class Verdict:
    """A word, the reasons for it, and the thresholds: all of them, and those that were missed.

    VALID: the measurement was sound. IMPORTED: another tool measured. FAILED: every request failed. BROKEN:
    most steps of the scenario raised an exception, sent nothing or never ended. INVALID: the generator was
    over its budget, or nothing was measured though steps did not break. UNCHECKED: its health is not known.
    DAMAGED: run.json is. ABORTED: it was interrupted, or a condition of its own ended it early; one that a
    condition ended and that is FAILED, BROKEN, INVALID or DAMAGED besides is called that. RUNNING: it has not
    ended.
    """

    word: Word
    reasons: tuple[str, ...]
    thresholds: tuple[ThresholdResult, ...]
    exit_code: int  #: of `perfkit run`

    @property
    def missed(self) -> tuple[ThresholdResult, ...]:
        """The thresholds that were missed."""
        return tuple(threshold for threshold in self.thresholds if not threshold.ok)

    @property
    def missed_words(self) -> str:
        """How many thresholds were missed; empty where none was."""
        return (
            f"{len(self.missed)} of {plural(len(self.thresholds), 'threshold')} missed" if self.missed else ""
        )

    @property
    def sound(self) -> bool:
        """Whether the run may stand beside others: in a comparison, a trend, a curve of capacity."""
        return self.word in _SOUND

    @property
    def level(self) -> Literal["good", "warn", "bad"]:
        """How a reader should take it."""
        if self.word not in ("VALID", "UNCHECKED", "IMPORTED"):
            return "bad"
        return "good" if self.word == "VALID" and not self.missed else "warn"

    @property
    def brief(self) -> str:
        """One word for a list; `missed` for a valid run that missed thresholds."""
        return "missed" if self.word == "VALID" and self.missed else self.word.lower()

    @property
    def words(self) -> str:
        """The word and its reasons in a line."""
        return f"{self.word}: {'; '.join(self.reasons)}" if self.reasons else self.word


def verdict_of(run: Run) -> Verdict:
    """Return the verdict of a run; PerfkitError where its run.json cannot be read at all."""
    meta, state, reason = run.meta, run.state, run.reason or ""
    if state == "aborted" and meta.aborted_by:
        return _ended_early(meta, run.results, reason)
    if state == "aborted":
        return Verdict("ABORTED", _all(reason), meta.thresholds, INTERRUPTIONS.get(reason, EXIT_TOOL_ERROR))
    if state == "running":
        word: Word = "RUNNING"
        reasons: tuple[str, ...] = ("still running; these are the results so far",)
    elif meta.damage:
        word, reasons = "DAMAGED", (meta.damage_reason,)
    else:
        word, reasons = _ended(meta, run.results)
    met = all(threshold.ok for threshold in meta.thresholds)
    code = _EXIT_CODES.get(word, EXIT_OK if met else EXIT_THRESHOLDS_MISSED)
    return Verdict(word, reasons, meta.thresholds, code)


def _ended_early(meta: Metadata, results: Results, reason: str) -> Verdict:
    """The verdict of a run that a condition has ended: why it ended, then what else is to be said of it."""
    word, reasons = ("DAMAGED", (meta.damage_reason,)) if meta.damage else _ended(meta, results)
    if (
        not results.n and results.errors and word not in ("DAMAGED", "BROKEN")
    ):  # nothing had succeeded in its warm-up
        word, reasons = "FAILED", ("no request was measured",)
    if _EXIT_CODES.get(word) is None:
        return Verdict("ABORTED", (reason,), meta.thresholds, EXIT_THRESHOLDS_MISSED)
    return Verdict(word, _all(reason, *reasons), meta.thresholds, _EXIT_CODES[word])


def _ended(meta: Metadata, results: Results) -> tuple[Word, tuple[str, ...]]:
    """Word and reasons for a run that came to its end."""
    health = meta.health.reasons if meta.health.valid is False else ()
    if results.n and results.failed == results.n:
        return "FAILED", (_everything_failed(results), *health)
    raised = (_most_steps_raised(meta),) if meta.steps_broken else ()
    if raised:
        return "BROKEN", (*raised, *health)
    if meta.health.valid is False:
        return "INVALID", health or ("the generator was over its budget",)
    if meta.imported:
        return "IMPORTED", _all(fidelity.words(meta), *fidelity.lacks(meta))
    if meta.health.valid is None:
        return "UNCHECKED", ("the generator's health was not recorded",)
    return "VALID", ()


def _everything_failed(results: Results) -> str:
    text = f"every request failed ({results.n:,} of {results.n:,})"
    if not results.failures:
        return text
    first = results.failures[0]
    words = f": {first.words}" if first.words else ""
    return f"{text}, most often {first.error} of {first.operation}{words} ({first.count:,} times)"


class BrokenSteps(NamedTuple):
    """How many steps of a run raised an exception, sent nothing or never ended, and what most of them did."""

    n: int
    steps: int
    verb: str
    most_often: str


def broken_steps(meta: Metadata) -> BrokenSteps | None:
    """Return them; None where there are none."""
    if not meta.step_errors:
        return None
    count = sum(error.count for error in meta.step_errors)
    first = max(meta.step_errors, key=lambda error: error.count)
    broke = any(error.text.startswith("a step ") for error in meta.step_errors)
    return BrokenSteps(count, max(meta.steps_ended, count), "broke" if broke else "raised", first.text)


def _most_steps_raised(meta: Metadata) -> str:
    broken = broken_steps(meta)
    if broken is None:
        return "every step raised an exception"
    who = "every step" if broken.n == broken.steps else "most steps"
    raised = "raised an exception" if broken.verb == "raised" else broken.verb
    return f"{who} {raised} ({broken.n:,} of {broken.steps:,}): {broken.most_often}"


def _all(*reasons: str) -> tuple[str, ...]:
    return tuple(reason for reason in reasons if reason)
