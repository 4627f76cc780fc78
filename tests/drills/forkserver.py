"""A warm process that forks a child for each case, so that the start of an interpreter is paid once.

It reads a case as a line of JSON, runs its steps in a child of its own session, and answers with a line: what
each step ended with, the processor time and the memory it took, and which processes were left behind. A step
is a command line of perfkit, or a function of the drills by its name.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.kill_points import count_events

#: A step that has used so much processor time, or a case that has lasted so long, is ended: it hangs.
CPU_LIMIT_S = 20.0
WALL_LIMIT_S = 60.0
_ADDRESS_SPACE = 8 * 1024**3
_LEFT_OUT = ("agent_server", "perfkit_probes", "perfkit.lab")


def main() -> None:
    """Serve cases until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _warm_up()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_carry_out(json.loads(line))), file=answers, flush=True)


def _warm_up() -> None:
    import perfkit
    from perfkit import doctor

    for found in pkgutil.walk_packages(perfkit.__path__, "perfkit."):
        if not found.name.startswith(_LEFT_OUT) and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in ("agent_server.command", "tests.drills.calls"):
        importlib.import_module(name)
    doctor._modules()  # loads every package the doctor looks for
    gc.collect()
    gc.freeze()


def _carry_out(case: dict[str, Any]) -> dict[str, Any]:
    folder = Path(case["folder"])
    pid = os.fork()
    if not pid:
        _be_child(case, folder)
    over = _wait(pid, WALL_LIMIT_S)
    _, status = os.waitpid(pid, 0)
    left = _left(pid, case["patience_s"])
    steps = [json.loads(line) for line in (folder / "steps").read_text().splitlines()]
    died = -os.waitstatus_to_exitcode(status) if os.WIFSIGNALED(status) else 0
    return {"steps": steps, "over": over, "signal": died, "left": len(left)}


def _wait(pid: int, wall_s: float) -> bool:
    """Wait for a child to end; True when it had to be ended."""
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if poll.poll(wall_s * 1000):
            return False
        os.kill(pid, signal.SIGKILL)
        return True
    finally:
        os.close(fd)


def _left(session: int, patience_s: float) -> list[int]:
    """The processes a child left behind that do not end by themselves in time; they are ended."""
    until = time.monotonic() + patience_s
    while (left := _session(session)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def _session(session: int) -> list[int]:
    """The processes of a session that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


# -- the child -------------------------------------------------------------------------------------


def _be_child(case: dict[str, Any], folder: Path) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        os.environ.update(case.get("environment", {}), PERFKIT_TRACEBACK="1")
        with open(folder / "steps", "w") as results:
            for number, step in enumerate(case["steps"]):
                print(json.dumps(_step(number, step)), file=results, flush=True)
        atexit._run_exitfuncs()  # as the interpreter would: pools end, semaphores go
        code = 0
    finally:
        os._exit(code)


def _step(number: int, step: dict[str, Any]) -> dict[str, Any]:
    for fd, name in ((1, "out"), (2, "err")):
        file = os.open(f"{name}{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, fd)
        os.close(file)
    with contextlib.suppress(OSError):  # where a container forbids it, the peak is that of all steps so far
        Path("/proc/self/clear_refs").write_text("5")
    events = count_events(os.getcwd(), step["kill_at"]) if "kill_at" in step else [None]
    before = os.times()
    signal.setitimer(signal.ITIMER_PROF, step.get("cpu_s", CPU_LIMIT_S))
    code = _call(step)
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    after = os.times()
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    return {
        "code": code,
        "cpu_s": sum(after[:4]) - sum(before[:4]),
        "mb": peak_kb / 1024,
        "events": events[0],
    }


def _call(step: dict[str, Any]) -> int:
    """Exit code of a step; whatever else is raised is printed as the interpreter would."""
    from perfkit.cli import main as command_line
    from perfkit.errors import PerfkitError

    try:
        if "argv" in step:
            sys.argv = ["perfkit", *step["argv"]]
            command_line()
        else:
            module, _, name = step["call"].partition(":")
            getattr(importlib.import_module(module), name)(*step["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except PerfkitError as error:
        print(f"perfkit: {error}", file=sys.stderr)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
