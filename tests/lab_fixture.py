"""A JupyterLab as `make lab` starts it, in a folder of its own, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """Copy the notebooks and the sample there, start scripts/lab, yield its address with the token; stop it.

    Its settings, workspaces and runtime files lie in `folder` too, so the user's own are left alone. The user
    has a kernel of the same name that does not work: ours must be taken.
    """
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copytree(ROOT / "data" / "sample", folder / "data" / "sample")
    places = {
        name: str(folder / ".jupyter") for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
    }
    broken = folder / ".jupyter" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    spec = {"argv": ["/nonexistent"], "display_name": "Python 3 (ipykernel)", "language": "python"}
    (broken / "kernel.json").write_text(json.dumps(spec))
    command = [str(ROOT / "scripts" / "lab"), str(Path(sys.executable).parent), "--no-browser"]
    command += ["--ServerApp.port=0"]
    log = folder / "lab.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **places}, stdout=out, stderr=out)
    try:
        yield _address(folder / ".jupyter", process, log)
    finally:
        process.terminate()
        process.wait(30)


def _address(runtime: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """From the file a server writes when it listens."""
    for _ in range(600):
        for file in runtime.glob("jpserver-*.json"):
            told = json.loads(file.read_text() or "{}")
            if told:
                return f"{told['url']}lab/tree/notebooks/explore.ipynb?token={told['token']}&reset"
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())
