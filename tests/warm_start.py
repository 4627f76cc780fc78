"""Processes the tests start begin with their imports done: one that has them forks them.

The tests start hundreds of servers, workers, verbs and kernels, and each would import for a second what the
one before it did. `install` makes `subprocess` and `multiprocessing` ask a helper for these. The new process
is a child of *this* one (CLONE_PARENT): it is waited for, signalled and watched like any other. All others
start as a user's do: those with another PYTHONPATH, as in test_wheels, what a verb starts, kernels of
JupyterLab, and everything where there is no Linux.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import platform
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: How a command begins that is forked: modules, code of multiprocessing and of `perfkit.report.kernel`.
_MODULES = ("agent_server", "perfkit.cli", "perfkit.lab")
_CODES = (
    "from multiprocessing.spawn import spawn_main",
    "import sys; sys.path[:] = sys.argv[1:]; from perfkit.drive.shards.boot import",
)
_KERNEL = "\nimport contextlib, gc, importlib"
_IMPORTED = (
    *(
        "perfkit.cli",
        "perfkit.compare.experiment",
        "perfkit.importing",
        "perfkit.retention",
        "httpx",
        "uvloop",
    ),
    *("perfkit.drive.running", "perfkit.drive.worker", "perfkit.drive.wire", "perfkit.lab.child"),
    *("agent_server.command", "agent_server.app"),
)
#: The parameters of `_posixsubprocess.fork_exec` after the command.
_NAMES = (
    *(
        "paths",
        "close_fds",
        "pass_fds",
        "cwd",
        "env",
        "stdin",
        "",
        "",
        "stdout",
        "",
        "stderr",
        "",
        "errpipe",
        "",
    ),
    *("start_new_session", "group", "gid", "gids", "uid", "umask", "preexec_fn"),
)
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)
_CLONE_PARENT = 0x8000
_STREAMS = ("stdin", "stdout", "stderr")
_MOST = 1 << 20


def _imported(words: Sequence[str]) -> Sequence[str] | None:
    """What a process of this command imports; None if it is not to be forked."""
    how = next((i for i, word in enumerate(words) if word in ("-m", "-c")), 0)
    if not how or words[0] != sys.executable or any(word[:2] in ("-I", "-E", "-X") for word in words[1:how]):
        return None
    what, rest = words[how + 1], words[how + 2 :]
    if what in _MODULES if words[how] == "-m" else what.startswith(_CODES):
        return _IMPORTED
    if what.startswith(_KERNEL) and "perfkit.figures" in rest[1]:  # others import nothing at first
        return ["ipykernel.kernelapp", *rest[1].split()]
    return None


def _of_python(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


class _Helper:
    """The process that forks, seen from here."""

    def __init__(self, start: Callable[..., int]) -> None:
        self._start, self._lock, self._python = start, threading.Lock(), _of_python(dict(os.environ))
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        command = [sys.executable, "-W", "ignore", "-m", "tests.warm_start", str(there.fileno())]
        # the threads of a linear algebra library would be missing after a fork
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        with there:
            root = Path(__file__).parents[1]
            self._process = subprocess.Popen(command, cwd=root, env=environment, pass_fds=[there.fileno()])

    def fork_exec(self, words: Sequence[Any], *rest: Any) -> int:
        """Do what `_posixsubprocess.fork_exec` does."""
        given = dict(zip(_NAMES, rest, strict=False))
        command = [os.fsdecode(word) for word in words]
        environment = dict(os.environ)
        if given["env"] is not None:
            pairs = (os.fsdecode(pair).partition("=") for pair in given["env"])
            environment = {name: value for name, _, value in pairs}
        modules = _imported(command)
        plain = given["close_fds"] and given["preexec_fn"] is None and given["uid"] is None
        if modules is None or not plain or _of_python(environment) != self._python:
            return self._start(words, *rest)
        kept = [number for number in given["pass_fds"] if number != given["errpipe"]]
        streams = [
            n if n >= 0 else i for i, n in enumerate((given["stdin"], given["stdout"], given["stderr"]))
        ]
        told = {
            "modules": modules,
            "command": command,
            "numbers": [0, 1, 2, *kept],
            "cwd": os.fsdecode(given["cwd"] or os.getcwd()),
            "environment": environment,
            "session": bool(given["start_new_session"]),
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        }
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(told).encode()], [*streams, *kept])
            return int(self._socket.recv(100))


def install() -> None:
    """From now on processes of these kinds are forked."""
    import _posixsubprocess

    if sys.platform != "linux" or not _CLONE:
        return
    helper = _Helper(_posixsubprocess.fork_exec)
    _posixsubprocess.fork_exec = helper.fork_exec
    subprocess._fork_exec = helper.fork_exec  # type: ignore[attr-defined]


# -- in the helper ---------------------------------------------------------------------------------


def _fork_sibling() -> int:
    """Fork a child of this process's parent."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = int(ctypes.PyDLL(None).syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return pid


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork as asked; returns in each child, with what it is to be."""
    while True:
        message, fds, _, _ = socket.recv_fds(connection, _MOST, 100)
        if not message:
            sys.exit()
        told: dict[str, Any] = json.loads(message)
        for module in told["modules"]:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()
        if (pid := _fork_sibling()) == 0:
            connection.close()
            return told | {"fds": fds}
        connection.send(str(pid).encode())
        for fd in fds:
            os.close(fd)


def _become(told: dict[str, Any]) -> None:
    """Take the streams, the folder and the environment of the process that was asked for."""
    if told["session"]:
        os.setsid()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in told["fds"]]
    for fd in told["fds"]:
        os.close(fd)
    for fd, number in zip(high, told["numbers"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    for number, name in enumerate(_STREAMS):
        errors = "backslashreplace" if number == 2 else None
        stream = open(number, "w" if number else "r", buffering=1, closefd=False, errors=errors)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["cwd"])
    signal.pthread_sigmask(signal.SIG_SETMASK, told["blocked"])


def _run(command: Sequence[str]) -> None:
    """Do what `python -m` or `python -c` does."""
    how = next(i for i, word in enumerate(command) if word in ("-m", "-c"))
    what = command[how + 1]
    if command[how] == "-m":
        sys.path[0], sys.argv = os.getcwd(), [what, *command[how + 2 :]]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = "", ["-c", *command[how + 2 :]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


def _end(code: Any) -> None:
    """End as the interpreter does, but leave the memory of a hundred modules to the system."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(asked)
    code: Any = 0
    try:
        _run(asked["command"])
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    _end(code)
