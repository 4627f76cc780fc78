"""What a step of a case can call beside the command line: Python's side of perfkit, and seams for runs."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def stop_at_load() -> None:
    """From here on a run is interrupted the moment before it makes a folder, or starts a server."""
    from perfkit.drive import running

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    running.execute = interrupted  # type: ignore[assignment]
    running.reference_server = interrupted  # type: ignore[assignment]


def interrupt_after(seconds: float) -> None:
    """Send Ctrl-C so much later, unless the process has ended by then."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def look(data_dir: str, run_id: str) -> None:
    """The runs and one of them as Python and Jupyter show them, and the run's tables and findings."""
    import perfkit
    from perfkit.errors import PerfkitError

    runs = perfkit.runs(data_dir)
    print(repr(runs), runs._repr_html_(), runs.frame())
    print(runs.filter(tag="before"), runs.filter(scenario="http_get"), runs.filter(state="complete"))
    with contextlib.suppress(PerfkitError):  # a damaged run may refuse to be opened, in words
        run = perfkit.open_run(run_id, data_dir)
        print(repr(run), run._repr_html_())
        print(run.state, run.reason, run.table().num_rows)


def notebook(name: str, **parameters: Any) -> None:
    """Carry out the code cells of one of perfkit's notebooks here, each value shown as Jupyter would."""
    import matplotlib

    matplotlib.use("Agg")
    cells = [
        "".join(cell["source"])
        for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    space: dict[str, Any] = {}
    exec(cells[0], space)
    space |= parameters
    for cell in cells[1:]:
        _show(_value(cell, space))


def notebooks(data_dir: str, run_id: str, names: list[str]) -> None:
    """Several notebooks on a run, or on its series; what is refused in words is refused."""
    for name in names:
        kind = {"comparison": {}, "run_report": {"run": run_id}, "server_health": {"run": run_id}}
        notebook(name, data_dir=data_dir, **kind.get(name, {"runs": "tag:before"}))


def _value(cell: str, space: dict[str, Any]) -> Any:
    body = ast.parse(cell)
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, "cell", "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)  # type: ignore[attr-defined]


def _show(value: Any) -> None:
    shown = getattr(value, "_repr_html_", None)
    if shown is not None:
        shown()
    repr(value)


def finish_store(data_dir: str) -> None:
    """Add to a new store what is made of its runs: two comparisons and a noise floor."""
    from perfkit.compare import Options, noise
    from perfkit.compare.experiment import compare_and_keep, runs_named
    from perfkit.stats import History

    data = Path(data_dir)
    sides = runs_named("tag:before", data), runs_named("tag:after", data)
    for number, options in enumerate((Options(), Options(margin=0.2))):
        made = compare_and_keep(*sides, options, ("before", "after"), data).path
        fixed = made.with_name(f"20261102-10000{number}-00c{number}")  # a case is the same every time
        text = (made / "comparison.json").read_text().replace(made.name, fixed.name)
        (made / "comparison.json").write_text(text)
        made.rename(fixed)
    floor = {name: History(1e-4, 9.0) for name in ("p50", "paired p50", "p99", "throughput")}
    noise.save(data, sides[0][0], floor)
