"""A run that is damaged, and every verb on it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from random import Random
from typing import Any

from tests.drills import mutate
from tests.drills.cases import Case, Given
from tests.drills.parquet import parquet
from tests.drills.store import copy_store


def json_case(rng: Random, folder: Path, given: Given) -> Case:
    """A run whose run.json is broken (or a comparison, or a noise floor), and every verb on it."""
    data, victim = _victim(rng, folder, given.store)
    file = data / "runs" / victim / "run.json"
    if rng.random() < 0.15:
        others = sorted([*data.glob("comparisons/*/comparison.json"), *data.glob("noise/*.json")])
        file = rng.choice(others)
    words = (_special if rng.random() < 0.08 else _broken_json)(rng, file)
    name = f"{file.relative_to(data)}: {words}"
    return Case(name, verbs(rng, victim), (victim, str(file.relative_to(data))))


def parquet_case(rng: Random, folder: Path, given: Given) -> Case:
    """A run whose rows or samples are broken, and every verb on it."""
    data, victim = _victim(rng, folder, given.store)
    file = rng.choice(sorted((data / "runs" / victim).rglob("*.parquet")))
    if rng.random() < 0.05:
        words = _special(rng, file)
    else:
        content, words = parquet(rng, file.read_bytes())
        file.write_bytes(content)
    return Case(f"{file.relative_to(data)}: {words}", verbs(rng, victim), (victim,))


def _victim(rng: Random, folder: Path, store: Path) -> tuple[Path, str]:
    copy_store(store, folder / "data")
    runs = sorted(p.name for p in (folder / "data" / "runs").iterdir())
    return folder / "data", rng.choice(runs)


def _broken_json(rng: Random, file: Path) -> str:
    given = file.read_text()
    if rng.random() < 0.8:
        changed, words = mutate.tree(rng, json.loads(given), rng.choice((1, 1, 1, 2, 5)))
        file.write_bytes(mutate.as_json(changed).encode(errors="surrogatepass"))
        return words
    if rng.random() < 0.5:
        content, words = mutate.damaged(rng, given.encode())
    else:
        text, words = mutate.text(rng, given)
        content, more = mutate.encoded(rng, text)
        words += more
    file.write_bytes(content)
    return words


def _special(rng: Random, file: Path) -> str:
    """Something in the place of a file that is no file."""
    kind = rng.choice(("fifo", "socket", "folder", "loop", "dangling", "zero", "empty", "unreadable"))
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            at = os.open(file.parent, os.O_RDONLY)  # its path may be longer than a socket's may
            made.bind(f"/proc/self/fd/{at}/{file.name}")
            os.close(at)
    elif kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "unreadable":
        file.write_text("{}")
        file.chmod(0)
    else:
        file.symlink_to({"loop": file.name, "dangling": "nowhere", "zero": "/dev/zero"}[kind])
    return kind


def verbs(rng: Random, victim: str) -> list[dict[str, Any]]:
    """Every verb that meets a run, reading ones first; the last one removes it."""
    other = "20261101-120001-http_get-0001"
    lines = [
        ["ls"], ["ls", "--json"], ["show", victim], ["show", victim, "--json"], ["show", other], ["doctor"],
        ["tag", victim], ["prune", "--keep", "1"], ["prune", "--keep", "0", "--json"],
        ["tag", victim, "new"], ["tag", victim, "--remove", "new"], ["tag", victim, "--note", "a note"],
        ["tag", "tag:after", "more"], ["tag", "tag:after", "--remove", "more"],
        ["compare", victim, other, "--no-report"], ["compare", "tag:before", "tag:after", "--no-report",
        "--json"],
        ["compare", "tag:before", f"{victim},{other}", "--no-report", "--force"],
        ["gate", "latest"], ["gate", "tag:before", "tag:after", "--junit", "gate.xml", "--markdown",
        "gate.md"],
        ["gate", "latest", "--json"],
        ["publish", "site", "--no-report", "-q"], ["prune", "--keep", "1000", "--yes"],
    ]  # fmt: skip
    steps: list[dict[str, Any]] = [{"argv": [*line, "--data-dir", "data"], "lines": 30} for line in lines]
    steps.insert(6, {"call": "tests.drills.calls:look", "arguments": ["data", victim]})
    names = rng.choice(([], ["run_report"], ["server_health"], ["trend"], ["capacity"], ["comparison"]))
    steps.insert(
        7, {"call": "tests.drills.calls:notebooks", "arguments": ["data", victim, names], "cpu_ok_s": 15}
    )
    return [*steps, {"argv": ["rm", victim, "--data-dir", "data"]}, {"argv": ["ls", "--data-dir", "data"]}]
