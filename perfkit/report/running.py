"""Cells executed by papermill in a kernel of this interpreter; what they tell of the machine is taken out."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import perfkit
from perfkit.errors import BadInput, PerfkitError
from perfkit.report.kernel import Kernel
from perfkit.report.parameters import jupyter
from perfkit.text import for_terminal


def run_cells(
    notebook: Path, parameters: dict[str, Any], output: Path, progress: bool, final: Path, kernel: Kernel,
    about: str = "",
) -> str | None:  # fmt: skip
    """Execute into `output`, which will be `final`; what broke in one line, or None.

    about: what the notebook is of, kept in it for the head of its page.
    """
    from jupyter_core.utils import ensure_event_loop

    papermill = jupyter("papermill")
    shown = progress and sys.stderr.isatty()  # in a log it would be one endless line
    label, broken = for_terminal(notebook.stem, most=60), None
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=parameters,
            progress_bar=shown and {"unit": "cell", "leave": False, "desc": label},
            km=kernel.manager,
            engine_name=_engine(),
        )
    except KeyboardInterrupt:  # the cell under way fails as its kernel ends, and nobody waits for it
        ensure_event_loop().set_exception_handler(lambda *_: None)
        raise
    except papermill.PapermillExecutionError as error:
        if error.ename == BadInput.__name__:
            raise BadInput(str(error.evalue).strip()) from None
        broken = f"{error.ename}: {error.evalue}".strip().splitlines()[0][:300]
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0] + kernel.last_words()
        if isinstance(error, OSError):
            raise
        if not output.stat().st_size:
            raise PerfkitError(f"cannot execute {notebook.name}: {what:.300}") from error
        broken = what[:300]
    kernel.ask_to_end()
    forget_machine(output, notebook, final, about)
    return broken


def _engine() -> str:
    """The name of papermill's engine, changed to save the notebook once, not twice for each of its cells.

    A notebook that is being executed has a temporary name: nobody reads it before it ends, well or not.
    """
    from papermill.engines import NBClientEngine, papermill_engines

    class SavingOnce(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
            path, nb_man.output_path = nb_man.output_path, None
            try:
                super().execute_managed_notebook(nb_man, kernel_name, **options)
            finally:
                nb_man.output_path = path  # papermill saves it there next

    papermill_engines.register("perfkit", SavingOnce)
    return "perfkit"


def forget_machine(output: Path, notebook: Path, final: Path, about: str = "") -> None:
    """Take the working and the home directory out of an executed notebook: they are nobody's business."""
    nbformat = jupyter("nbformat")
    nb = nbformat.read(str(output), as_version=4)
    nb.metadata["perfkit"] = {"about": about}
    told = nb.metadata.get("papermill", {})
    told["input_path"], told["output_path"] = notebook.name, final.name
    # the inner one first; text by text, because in the file's JSON a newline before a path is a letter n
    folders = {str(Path.cwd()): ".", str(Path.home()): "~", str(Path(perfkit.__file__).parents[1]): "."}
    inner_first = sorted(folders, key=len, reverse=True)
    places = {path: (_prefix(path), folders[path]) for path in inner_first if path != "/"}
    nbformat.write(_without(nb, places), str(output))


def _prefix(path: str) -> re.Pattern[str]:
    """The path as a whole, alone or before a slash; a terminal's colour may stand right before it."""
    colours = "|".join(rf"(?<=\x1b\[{code}m)" for code in ("[0-9]", "[0-9]{2}", "[0-9];[0-9]{2}"))
    start = rf"(?:(?<![\w.~/-])|(?<=://)|(?<=\\[nrt])|{colours})"
    return re.compile(rf"{start}{re.escape(path)}(?![\w-]|\.\w)")


def _without(node: Any, places: Mapping[str, tuple[re.Pattern[str], str]]) -> Any:
    """Nested dicts and lists with each path in their texts replaced."""
    if isinstance(node, str):
        for path, (whole, instead) in places.items():
            if path in node:  # the pattern alone, which looks behind first, takes many times as long
                node = whole.sub(instead, node)
    elif isinstance(node, dict):
        for name in node:
            node[name] = _without(node[name], places)
    elif isinstance(node, list):
        node[:] = [_without(one, places) for one in node]
    return node
