"""Which name a mistyped one is taken for."""

from __future__ import annotations

from dataclasses import fields

import pytest

from perfkit.cli.base import DESTRUCTIVE, cli
from perfkit.model import Arrivals, Target, Users, Workload
from perfkit.suggestions import edits, nearest

VERBS = [
    *("run", "batch", "report", "publish", "import", "compare", "gate", "aa", "ls", "show", "tag", "prune"),
    *("rm", "cleanup", "serve", "doctor", "new"),
]
OPTIONS = [
    *(
        "--users",
        "--rate",
        "--duration",
        "--ramp",
        "--requests",
        "--data-dir",
        "--data",
        "--once",
        "--target",
    ),
    *("--threshold", "--scenario", "--param", "--set", "--tag", "--quiet", "--header", "--method"),
]
TARGET, USERS, ARRIVALS, WORKLOAD = (
    [field.name for field in fields(noun)] for noun in (Target, Users, Arrivals, Workload)
)
#: What is known, what is meant, and slips that lead to it.
MEANT = [
    (VERBS, "run", "rum rnu rn runn ruin RUN load bench"),
    (VERBS, "compare", "comprae diff"),
    (VERBS, "rm", "delete"),
    (VERBS, "ls", "list"),
    (VERBS, "new", "init"),
    (VERBS, None, "x frobnicate mode http"),
    (OPTIONS, "--duration", "--duraton --dur --time"),
    (OPTIONS, "--users", "--vus --concurrency --threads -c --user --usres"),
    (OPTIONS, "--rate", "--rps --qps --rat --arrival-rate"),
    (OPTIONS, "--requests", "-n --iterations"),
    (OPTIONS, "--target", "--url --host"),
    (OPTIONS, None, "--bodyyy --x"),
    (["--data-dir", "--json"], None, "--duration"),
    (TARGET, "timeout_s", "timeout timeot_s"),
    (TARGET, "url", "ulr base_url host"),
    (USERS, "duration_s", "duration time"),
    (USERS, "count", "vus cuont"),
    (ARRIVALS, "rate_per_s", "rps rate"),
    (WORKLOAD, None, "path"),
]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        *(("run", one, 1) for one in ("rnu", "ru", "runn", "rum")),
        *(("run", "run", 0), ("", "ab", 2), ("ca", "abc", 3), ("abcd", "badc", 2), ("kitten", "sitting", 3)),
    ],
)
def test_edits(one: str, other: str, distance: int) -> None:
    """Insertions, deletions, substitutions and transpositions count 1 each; it is the same both ways."""
    assert edits(one, other) == edits(other, one) == distance


@pytest.mark.parametrize(
    ("known", "meant", "given"),
    [(known, meant, one) for known, meant, slips in MEANT for one in slips.split()],
)
def test_what_is_meant(known: list[str], meant: str | None, given: str) -> None:
    """One edit in a short name, two in a longer one, a beginning, or another tool's word; else nothing."""
    assert nearest(given, known, last=DESTRUCTIVE) == meant


def test_no_slip_leads_to_a_verb_that_removes() -> None:
    """No single slip in a verb that removes nothing is answered with `rm` or `prune`."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for verb in set(cli.commands) - DESTRUCTIVE:
        cuts = [(verb[:i], verb[i:]) for i in range(len(verb))]
        slips = {head + tail[1:] for head, tail in cuts}
        slips |= {head + letter + tail[n:] for head, tail in cuts for n in (0, 1) for letter in letters}
        slips |= {head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1}
        found = {nearest(slip, cli.commands, last=DESTRUCTIVE) for slip in slips - DESTRUCTIVE}
        assert not found & DESTRUCTIVE, verb
