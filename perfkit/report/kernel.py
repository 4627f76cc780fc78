"""A kernel of this interpreter, which gets ready while the notebook that it will execute is looked at."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from perfkit.errors import PerfkitError, os_error_words, with_extra
from perfkit.report.parameters import notebook_path

#: What perfkit's own notebooks import. Others get a kernel as fresh as ever: Matplotlib, for one, chooses
#: its backend when it is imported.
_IMPORTED = "perfkit.observe.findings perfkit.figures perfkit.frames"

#: It ends with this process, whose id it is given; ipykernel's own look depends on who adopts it. What fails
#: to be imported here is reported by the cell that needs it. To look for garbage, of which imports make none,
#: would take a tenth of the time; a debugger, for which nobody asks, as long again.
_KERNEL = """
import contextlib, gc, importlib, os, runpy, sys
from perfkit.parent import end_with_parent
end_with_parent(int(sys.argv.pop(1)))
gc.disable()
sys.modules["debugpy"] = None
for name in ("ipykernel.kernelapp", *sys.argv.pop(1).split()):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
gc.freeze()
gc.enable()
os.chdir(sys.stdin.buffer.read())
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


class Kernel:
    """A kernel for a notebook, started at once, whatever kernels the user has installed; ends with its block.

    It talks over sockets in a folder which only this user can read, not over TCP ports anyone can reach.
    """

    def __init__(self, notebook: Path) -> None:
        """PerfkitError where no process or no temporary file can be made, or the extra is not installed."""
        try:
            from jupyter_core.utils import run_sync
        except ModuleNotFoundError as error:
            raise with_extra(error) from None

        self._wait_for = run_sync
        own = notebook.parent == notebook_path("run_report").parent
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="perfkit-")
            self.manager = _manager(self._folder.name, _IMPORTED if own else "")
            wait, self._tell = os.pipe()
            # what it writes past the notebook, at its end most often, is kept off the terminal
            with open(wait, "rb") as stdin, open(self._log, "w") as log:
                self._wait_for(self.manager.start_kernel)(
                    cwd=self._folder.name,
                    extra_arguments=["--HistoryManager.hist_file=:memory:"],
                    **{"stdin": stdin, "stdout": log, "stderr": log},
                )
        except OSError as error:
            raise PerfkitError(os_error_words(error)) from None
        self._told = self._asked = False

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "kernel.log"

    def run_in(self, folder: Path) -> None:
        """Let it run, in this folder: until now it has only imported."""
        self._told = True
        with open(self._tell, "wb") as tell:
            tell.write(os.fsencode(folder.absolute()))

    def last_words(self) -> str:
        """The last line a kernel that died wrote past its notebook."""
        try:
            lines = self._log.read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")

    def ask_to_end(self) -> None:
        """No cell is left: it may end while its caller goes on."""
        self._wait_for(self.manager.request_shutdown)()
        self._asked = True

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._told:
            os.close(self._tell)
        if self.manager.last_client is not None:
            self.manager.last_client.stop_channels()
        if self._wait_for(self.manager.is_alive)():
            if self._asked:
                self._wait_for(self.manager.finish_shutdown)()
            else:
                self._wait_for(self.manager.shutdown_kernel)(now=not self._told)
        self._wait_for(self.manager.cleanup_resources)()
        self._folder.cleanup()


def _manager(folder: str, modules: str) -> Any:
    """The kernel's manager: it keeps the client that papermill has of it, and leaves open."""
    from jupyter_client.asynchronous.client import AsyncKernelClient
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class OwnKernel(AsyncKernelManager):
        last_client: AsyncKernelClient | None = None

        @default("transport")
        def _own_transport(self) -> str:
            too_long = len(folder) > 80  # a socket's path holds about 100 characters
            return "tcp" if sys.platform == "win32" or too_long else "ipc"

        @default("connection_file")
        def _own_connection_file(self) -> str:
            return str(Path(folder) / "kernel.json")

        def client(self, **options: Any) -> AsyncKernelClient:  # type: ignore[override]
            self.last_client = super().client(**options)
            return self.last_client

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-c", _KERNEL, str(os.getpid()), modules, "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            )

    return OwnKernel()
