"""What a case of a corpus is, and what it is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A prepared folder (its `data` holds the runs), what was done to an input, and the steps to carry out.

    victims: parts of paths below `data`: what was damaged or may be removed. Everything else must not change.
    """

    changes: str
    steps: list[dict[str, Any]]
    victims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What cases are made with: a data folder to copy, and the URL of a server on this machine."""

    store: Path
    url: str


#: Makes a case in a folder; the same Random makes the same case.
Corpus = Callable[[Random, Path, Given], Case]
