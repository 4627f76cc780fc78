"""Make reports of runs of every kind, and pictures of them, to be looked at.

    python benchmarks/pages.py --out /tmp/pages

30 to a million requests, 1 to 12 operations, none to most failed, open and closed model; light and dark,
at a desk and on a phone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.make_timeline import make_timeline
from perfkit import report


class Kind(NamedTuple):
    """What a run was like."""

    requests: int
    operations: int
    failed: float
    closed: bool = False
    rate_per_s: float = 200.0  #: a very high one makes a burst

    def __str__(self) -> str:
        model = "closed" if self.closed else "open" if self.rate_per_s < 1e6 else "burst"
        return f"{self.requests}-{self.operations}-{self.failed:g}-{model}"


KINDS = (
    Kind(30, 1, 0.0),
    Kind(30, 3, 0.6, closed=True),
    Kind(700, 1, 0.02),
    Kind(700, 12, 0.0),
    Kind(700, 3, 0.02, closed=True),
    Kind(700, 3, 0.02, rate_per_s=1e9),
    Kind(20_000, 1, 0.0, closed=True),
    Kind(20_000, 3, 0.02),
    Kind(20_000, 12, 0.6),
    Kind(1_000_000, 3, 0.02, rate_per_s=2000),
)


def make_page(folder: Path, kind: Kind) -> Path:
    """Make a run of this kind below `folder`, and its report."""
    names = [f"operation_{letter}" for letter in "abcdefghijkl"[: kind.operations]]
    more = {"error_rate": kind.failed, "closed": kind.closed, "rate_per_s": kind.rate_per_s}
    run = make_timeline(folder, kind.requests, operations=names, run_id=str(kind), restless=0.5, **more)
    return report.make_report(run, progress=False)


def main() -> None:
    """Command line."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        for kind in KINDS:
            page = make_page(given.out, kind)
            print(f"{kind}: {page.stat().st_size / 1e6:.2f} MB")
            schemes: tuple[Any, ...] = ("light", "dark")
            for width, scheme in ((width, scheme) for width in (1200, 390) for scheme in schemes):
                tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                tab.goto(page.as_uri())
                tab.screenshot(path=given.out / f"{kind}-{width}-{scheme}.png", full_page=True)
                tab.close()
        browser.close()


if __name__ == "__main__":
    main()
