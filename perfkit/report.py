"""Notebooks executed with parameters by papermill, and made into one HTML file that loads nothing.

`make_report` is the way from a run to its report; `execute` does the same for any notebook. Papermill only
warns of a parameter it does not know; here that is refused, with the nearest name. A notebook that fails is
still written, both as .ipynb and as HTML with a link to the cell that broke.
"""

from __future__ import annotations

import ast
import hashlib
import html
import logging
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import perfkit
from perfkit.card import clean
from perfkit.errors import BadInput, PerfkitError, unknown
from perfkit.page import SITE_LINK, TEMPLATES, head, script
from perfkit.store import Run

_ONE_OF = re.compile(r"one of:\s*(.+)")
_FROM_TO = re.compile(r"from (\d+) to (\d+)")
_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
_HEAD_MARK = "<!--pk-head-->"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook: its name, default, and the values allowed, if its comment lists them."""

    name: str
    default: object
    allowed: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None


def notebook_path(name: str) -> Path:
    """A notebook that comes with perfkit, by name; from the package (wheel) or beside it (repository)."""
    package = Path(perfkit.__file__).parent
    folders = [package / "_notebooks", package.parent / "notebooks"]
    known = {p.stem: p for folder in reversed(folders) for p in sorted(folder.glob("*.ipynb"))}
    if name.removesuffix(".ipynb") not in known:
        raise unknown("notebook", name, known)
    return known[name.removesuffix(".ipynb")]


def make_report(
    run: Run,
    *,
    notebook: Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    out_dir: Path | None = None,
    progress: bool = True,
) -> Path:
    """Execute a notebook on a run and return the HTML, beside the .ipynb.

    The default is run_report, with server_health beside it when the run has samples of its server's probes.

    BadInput for a parameter the notebook does not have, a value of the wrong type, or one a cell refuses:
    then nothing is written. PerfkitError, with the HTML's address and the broken cell's anchor, when a cell
    fails; both files are written all the same.
    """
    folder = out_dir or run.path / "report"
    own, broken = _parameters_for(run, folder), None
    if notebook is None:
        notebook = notebook_path("run_report")
        check_parameters(notebook, parameters or {})
        if (run.path / "probes.parquet").exists():  # its page first, so that the report can link it
            own["health_page"] = "server_health.html"
            try:
                make_report(run, notebook=notebook_path("server_health"), out_dir=out_dir, progress=progress)
            except PerfkitError as failed:  # it is written all the same; so must be the report
                broken = failed
    given = dict(parameters or {})
    for name in own.keys() & given.keys():
        raise BadInput(
            f"parameter {name!r} is set by the report itself to the run it is made of; leave it out"
        )
    there = {p.name for p in parameters_of(notebook)}
    given |= {name: value for name, value in own.items() if name in there}
    page = execute(notebook, given, folder / f"{notebook.stem}.ipynb", subtitle=run.id, progress=progress)
    if broken is not None:
        raise broken
    return page


def make_report_of_several(data_dir: Path, notebook: Path, parameters: Mapping[str, Any], *,
                           progress: bool = True) -> Path:  # fmt: skip
    """Execute a notebook on the runs its `runs` parameter names, in a folder of its own in data_dir/reports.

    The same runs' page is replaced by a later one; that of others is not. Errors as of `make_report`.
    """
    check_parameters(notebook, parameters)
    words = re.sub(r"[^\w.-]+", "_", str(parameters["runs"]))
    if len(words) > 60:
        words = f"{words[:40]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
    folder = data_dir / "reports" / f"{notebook.stem}-{words}"
    given = {**parameters, "data_dir": os.path.relpath(data_dir, folder)}
    output = folder / f"{notebook.stem}.ipynb"
    return execute(notebook, given, output, subtitle=str(parameters["runs"]), progress=progress)


def make_comparison_report(folder: Path, *, progress: bool = True) -> Path:
    """Execute the comparison notebook on a comparison's folder; the HTML. Errors as of `make_report`."""
    given = {"comparison": "..", "data_dir": os.path.relpath(folder.parent.parent, folder / "report")}
    return execute(
        notebook_path("comparison"),
        given,
        folder / "report" / "comparison.ipynb",
        subtitle=folder.name,
        progress=progress,
    )


def _parameters_for(run: Run, folder: Path) -> dict[str, str]:
    """How a notebook that runs in `folder` finds the run: by relative paths, which tell nothing else."""
    _ = run.meta  # a folder that is no run is refused before a kernel starts
    data_dir = os.path.relpath(run.path.parent.parent, folder)
    return {
        "run": run.id if run.path.parent.name == "runs" else os.path.relpath(run.path, folder),
        "data_dir": data_dir,
    }


def execute(
    notebook: Path,
    parameters: Mapping[str, Any],
    output: Path,
    *,
    subtitle: str = "",
    progress: bool = True,
) -> Path:
    """Execute any notebook with parameters into `output` (.ipynb) and return the HTML written beside it.

    The kernel runs in the output's folder, under this interpreter. Errors as of `make_report`.
    """
    check_parameters(notebook, parameters)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        (output.parent / f".{output.name}.try").touch()
        (output.parent / f".{output.name}.try").unlink()
    except OSError as error:
        raise PerfkitError(
            f"cannot write the report to {output.parent}: {error.strerror}; make it writable"
        ) from None
    trial = output.with_name(f".{output.stem}.part.ipynb")
    try:
        broken = _run_cells(notebook, dict(parameters), trial, progress, output)
        os.replace(trial, output)
    finally:
        trial.unlink(missing_ok=True)
    page = render(output, title=str(parameters.get("title") or ""), subtitle=subtitle, broken=broken)
    if broken:
        raise PerfkitError(f"{notebook.name} failed: {broken}; see {page.resolve().as_uri()}#broken-cell")
    return page


# -- parameters ------------------------------------------------------------------------------------


def parameters_of(notebook: Path) -> list[Parameter]:
    """The parameters a notebook declares in its cell tagged `parameters`.

    `# one of: a, b` and `# from 1 to 9` limit one.
    """
    import papermill

    _silence_papermill()
    try:
        found = papermill.inspect_notebook(str(notebook))
    except FileNotFoundError:
        raise BadInput(f"no notebook {notebook}") from None
    except Exception as error:
        raise BadInput(f"{notebook} is no notebook: {str(error).splitlines()[0]:.120}") from None
    return [_parameter(p) for p in found.values()]


def _parameter(found: Mapping[str, Any]) -> Parameter:
    try:
        default = ast.literal_eval(str(found["default"]))
    except (ValueError, SyntaxError):
        default = None  # an expression: any value goes
    told = str(found.get("help") or "")
    words, numbers = _ONE_OF.search(told), _FROM_TO.search(told)
    allowed = tuple(word.strip() for word in words[1].split(",")) if words else ()
    limits = (int(numbers[1]), int(numbers[2])) if numbers else None
    return Parameter(str(found["name"]), default, allowed, limits)


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> None:
    """BadInput for the first parameter the notebook lacks or whose value does not fit the default."""
    known = {p.name: p for p in parameters_of(notebook)}
    for name, value in given.items():
        if name not in known:
            raise unknown(f"parameter of {notebook.name}:", str(name), known)
        _check_value(notebook.name, known[name], value)


def _check_value(notebook: str, parameter: Parameter, value: object) -> None:
    default = parameter.default
    wanted: tuple[type, ...] = (type(default),)
    if default is None:
        return
    if isinstance(default, float):
        wanted = (float, int)
    if isinstance(default, list | tuple):
        wanted = (list, tuple)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
        kind = kinds.get(type(default), type(default).__name__)
        raise BadInput(f"{notebook}: {parameter.name} takes {kind} (default {default!r}), not {value!r:.80}")
    if parameter.limits and not parameter.limits[0] <= value <= parameter.limits[1]:  # type: ignore[operator]
        low, high = parameter.limits
        raise BadInput(f"{notebook}: {parameter.name} takes {low} to {high}, not {value!r:.80}")
    if parameter.allowed and value not in parameter.allowed:
        raise unknown(f"value of {notebook}, {parameter.name}:", str(value), parameter.allowed)


# -- execution -------------------------------------------------------------------------------------


def _run_cells(
    notebook: Path, parameters: dict[str, Any], output: Path, progress: bool, final: Path
) -> str | None:
    """Execute into `output`, which will be `final`; what broke in one line, or None."""
    import papermill

    _silence_papermill()
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
    _forget_machine(output, notebook, final)
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


def _silence_papermill() -> None:
    """Papermill logs paths and, of a parameter it does not know, a warning; both are said better here."""
    logging.getLogger("papermill").setLevel(logging.ERROR)


def _forget_machine(output: Path, notebook: Path, final: Path) -> None:
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


# -- HTML ------------------------------------------------------------------------------------------


def render(notebook: Path, *, title: str = "", subtitle: str = "", broken: str | None = None) -> Path:
    """An executed notebook as one HTML file beside it: no external request, code folded, light and dark."""
    import nbformat

    nb = nbformat.read(str(notebook), as_version=4)  # type: ignore[no-untyped-call]
    out = notebook.with_suffix(".html")
    out.write_text(_html(nb, notebook, title, subtitle, broken))
    return out


def render_again(notebook: Path, subtitle: str) -> str:
    """The page of a notebook that was executed some time ago; nothing is written.

    ValueError for a file that is none. One that broke is said to be, as when it was made.
    """
    import nbformat

    try:
        nb = nbformat.read(str(notebook), as_version=4)  # type: ignore[no-untyped-call]
        failed = [out for cell in nb.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
        broken = f"{failed[0].ename}: {failed[0].evalue}".splitlines()[0][:300] if failed else None
        given = nb.metadata.get("papermill", {}).get("parameters", {})
        return _html(nb, notebook, str(given.get("title") or ""), subtitle, broken)
    except OSError:
        raise
    except Exception as error:  # somebody else's file: whatever nbformat and nbconvert say of it
        raise ValueError(f"{notebook.name} is no notebook: {str(error).splitlines()[0]:.120}") from None


def _html(nb: Any, notebook: Path, title: str, subtitle: str, broken: str | None) -> str:
    from nbconvert import HTMLExporter

    own, heading = script("perfkit/page.js"), _take_title(nb)
    page = {
        "title": title or heading or notebook.stem.replace("_", " ").capitalize(),
        "subtitle": clean(subtitle),
        "broken": broken,
        "notebook": notebook.name,
        "made": str(nb.metadata.get("papermill", {}).get("end_time") or "")[:19].replace("T", " ") + " UTC",
        "version": perfkit.__version__,
        "head_mark": _HEAD_MARK,
        "script": own,
        "site_link": SITE_LINK,
    }
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="perfkit", extra_template_basedirs=[str(TEMPLATES)]
    )
    body, _ = exporter.from_notebook_node(nb, resources={"perfkit": page})
    toc = "".join(f'<li><a href="#{i}">{_plain(text)}</a></li>' for i, text in _HEADING.findall(body))
    inside = body.partition(_HEAD_MARK)[2]  # nbconvert writes tags its own way; the first lines are fixed
    return head(own) + str(inside.replace("<!--pk-toc-->", toc, 1))


def _take_title(nb: Any) -> str:
    """The `# Heading` a notebook begins with, taken out of it: the page has a place of its own for it."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            first, _, rest = cell.source.partition("\n")
            cell.source = rest.strip()
            return str(first[2:].strip())
    return ""


def _plain(heading: str) -> str:
    return html.escape(html.unescape(re.sub(r"<[^>]+>", "", heading)).strip())
