"""A recording: requests somebody else sent once, to be sent again at the same instants."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from perfkit.errors import BadInput
from perfkit.model import Arrivals

_METHOD = re.compile(r"[A-Z][A-Z-]*").fullmatch
_LONGEST_S = 30 * 86_400


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which requests of a recording are sent, and what of them."""

    methods: tuple[str, ...] = ("GET", "HEAD")  #: others may change data: name them to send them
    host: str | None = None  #: of several hosts in the file; default: that of its first request
    send_secrets: bool = False  #: cookies, authorization and other secrets, which are left out by default
    #: Where the file has whole seconds: the requests of a second evenly over it, not all at its beginning.
    spread: bool = False
    skip_broken: bool = False  #: leave out lines that cannot be read instead of refusing the file

    def __post_init__(self) -> None:
        for method in self.methods:
            if not _METHOD(method) or method == "CONNECT":
                raise ValueError(f"methods takes names such as GET or POST, not {method!r:.40}")
        if not self.methods:
            raise ValueError("methods is empty; name at least one")


class Operation(NamedTuple):
    """A request to be sent: `name` is what an import of the same file calls it."""

    method: str
    path: str
    name: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Recording:
    """What is sent when. Request i is `operations[which[i]]`, due `at_s[i]` seconds after the first.

    left_out: how many requests of the file are not sent, by reason. secrets: those in what is sent. warming:
    how many requests belong to the warm-up.
    """

    file: str
    format: str
    sha256: str
    at_s: npt.NDArray[np.float64]
    which: npt.NDArray[np.int32]
    operations: tuple[Operation, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    warming: int = 0

    def operation(self, iteration: int) -> Operation:
        """The request of a step; those of the warm-up have negative numbers."""
        return self.operations[int(self.which[iteration + self.warming])]

    def after_warmup(self, warmup_s: float) -> Recording:
        """The same, with the first `warmup_s` seconds as the warm-up."""
        return dataclasses.replace(self, warming=int(np.searchsorted(self.at_s, warmup_s)))

    def arrivals(self, given: Arrivals, warmup_s: float) -> Arrivals:
        """Arrivals with what the recording says of them: its length, its mean rate, its digest.

        BadInput where it is another file than the one whose digest is given, longer than a run may last, or
        nothing comes after the warm-up.
        """
        if given.sha256 not in (None, self.sha256):
            raise BadInput(f"arrivals.sha256: {self.file} is another file: its digest is {self.sha256}")
        measured = self.at_s[np.searchsorted(self.at_s, warmup_s) :]
        if not len(measured):
            raise BadInput(f"warmup_s {warmup_s:g}: the recording lasts {self.at_s[-1]:.3g} s; shorten it")
        n, last_s = len(measured), float(measured[-1]) - warmup_s
        # as at a constant rate, the part ends a mean distance after its last request
        duration_s = last_s + max(float(measured[-1] - measured[0]) / max(n - 1, 1), 0.001)
        if duration_s > _LONGEST_S:
            raise BadInput(
                f"{self.file} lasts {duration_s / 86_400:.0f} days, at most 30; raise arrivals.speed"
            )
        rate = min(max(n / duration_s, 0.0001), 1_000_000.0)
        return dataclasses.replace(given, duration_s=duration_s, rate_per_s=rate, sha256=self.sha256)

    def to_mapping(self) -> dict[str, Any]:
        """As run.json has it: no request of it."""
        return {
            "file": self.file,
            "format": self.format,
            "sha256": self.sha256,
            "requests": len(self.at_s),
            "different": len(self.operations),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }
