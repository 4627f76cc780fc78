"""Cells executed by papermill in a kernel of this interpreter; what they tell of the machine is taken out."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import perfkit
from perfkit.errors import BadInput, PerfkitError
from perfkit.report.parameters import silence_papermill


def run_cells(
    notebook: Path, parameters: dict[str, Any], output: Path, progress: bool, final: Path
) -> str | None:
    """Execute into `output`, which will be `final`; what broke in one line, or None."""
    import papermill

    silence_papermill()
    broken = None
    with tempfile.TemporaryDirectory(prefix="perfkit-") as folder:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=parameters,
                progress_bar={"desc": notebook.stem, "unit": "cell", "leave": False} if progress else False,
                kernel_manager_class=_own_kernel(folder),
                resources={"metadata": {"path": str(output.parent)}},
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == BadInput.__name__:
                raise BadInput(str(error.evalue).strip()) from None
            broken = f"{error.ename}: {error.evalue}".strip().splitlines()[0][:300]
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0] + _last_words(folder)
            if not output.exists():
                raise PerfkitError(f"cannot execute {notebook.name}: {what:.300}") from error
            broken = what[:300]
    forget_machine(output, notebook, final)
    return broken


def _last_words(folder: str) -> str:
    """The last line a kernel that died wrote past its notebook."""
    try:
        lines = (Path(folder) / "kernel.log").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")


def _own_kernel(folder: str) -> type:
    """A kernel manager that starts this very interpreter, whatever kernels the user has installed.

    It talks over sockets in `folder`, which only this user can read, not over TCP ports anyone can reach.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class OwnKernel(AsyncKernelManager):
        @default("transport")
        def _own_transport(self) -> str:
            too_long = len(folder) > 80  # a socket's path holds about 100 characters
            return "tcp" if sys.platform == "win32" or too_long else "ipc"

        @default("connection_file")
        def _own_connection_file(self) -> str:
            return str(Path(folder) / "kernel.json")

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            """What the kernel writes past the notebook, at its end most often, is kept off the terminal."""
            with open(Path(folder) / "kernel.log", "w") as log:
                await self._async_start_kernel(**options, stdout=log, stderr=log)

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            )

    return OwnKernel


def forget_machine(output: Path, notebook: Path, final: Path) -> None:
    """Take the working and the home directory out of an executed notebook: they are nobody's business."""
    import nbformat

    nb = nbformat.read(str(output), as_version=4)  # type: ignore[no-untyped-call]
    told = nb.metadata.get("papermill", {})
    told["input_path"], told["output_path"] = notebook.name, final.name
    # the inner one first; text by text, because in the file's JSON a newline before a path is a letter n
    folders = {str(Path.cwd()): ".", str(Path.home()): "~", str(Path(perfkit.__file__).parents[1]): "."}
    places = [
        (_prefix(path), folders[path]) for path in sorted(folders, key=len, reverse=True) if path != "/"
    ]
    nbformat.write(_without(nb, places), str(output))  # type: ignore[no-untyped-call]


def _prefix(path: str) -> re.Pattern[str]:
    """The path as a whole, alone or before a slash; a terminal's colour may stand right before it."""
    colours = "|".join(rf"(?<=\x1b\[{code}m)" for code in ("[0-9]", "[0-9]{2}", "[0-9];[0-9]{2}"))
    start = rf"(?:(?<![\w.~/-])|(?<=://)|(?<=\\[nrt])|{colours})"
    return re.compile(rf"{start}{re.escape(path)}(?![\w-]|\.\w)")


def _without(node: Any, places: list[tuple[re.Pattern[str], str]]) -> Any:
    """Nested dicts and lists with each path in their texts replaced."""
    if isinstance(node, str):
        for path, instead in places:
            node = path.sub(instead, node)
    elif isinstance(node, dict):
        for name in node:
            node[name] = _without(node[name], places)
    elif isinstance(node, list):
        node[:] = [_without(one, places) for one in node]
    return node
