"""Tags and a note that somebody adds to a run or a comparison, checked once for both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perfkit.errors import BadInput
from perfkit.model import refuse_bad_tag, refuse_long_note


@dataclass(frozen=True)
class Marks:
    """What is to change: tags to add, and to remove; the note, None where it stays, "" for none."""

    add: tuple[str, ...]
    remove: frozenset[str]
    note: str | None

    @classmethod
    def of(cls, add: Iterable[str], remove: Iterable[str], note: str | None) -> Marks:
        """BadInput for a word that is not a tag, and for a note that is too long."""
        found = cls(tuple(dict.fromkeys(add)), frozenset(remove), note)
        for tag in found.add:
            refuse_bad_tag(tag)
        refuse_long_note(note)
        return found

    def require(self, existing: Iterable[str]) -> None:
        """BadInput for a tag to remove that is not among the existing ones."""
        existing = set(existing)
        if missing := self.remove - existing:
            there = ", ".join(sorted(existing)) or "none"
            raise BadInput(f"no such tag to remove: {', '.join(sorted(missing))}; existing tags: {there}")

    def tags(self, before: Iterable[str]) -> list[str]:
        """Return the tags as they are after the change."""
        return list(dict.fromkeys([*(tag for tag in before if tag not in self.remove), *self.add]))
