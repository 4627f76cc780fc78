"""The command line as a person or a script meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit.drive.workloads import read_yaml
from perfkit.errors import BadInput
from perfkit.store import list_runs
from tests.command import started
from tests.small_server import SmallServer, small_server

SECRET = "sk-not-for-your-eyes-4711"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def perfkit(*arguments: str, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    return started(*arguments, PERFKIT_DATA_DIR=str(data), **environment)


def run_get(server: SmallServer, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A short closed run of http_get."""
    load = ("-s", "users.count=2", "-s", "users.iterations=40")
    load += ("-s", "budget.delay_ms=10000", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=60000")
    return perfkit("run", "--scenario", "http_get", "--target", server.url, *load, *more, data=data)


@pytest.fixture(scope="module")
def one_run(server: SmallServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds one complete run."""
    data = tmp_path_factory.mktemp("data")
    done = run_get(server, data, "--tag", "first", "--quiet")
    assert done.returncode == 0, done.stderr
    return data


BAD = {
    "no such file": (["run", "nowhere.yaml"], "nowhere.yaml"),
    "nothing to run": (["run"], "--scenario"),
    "unknown verb": (["rnu"], "did you mean 'run'"),
    "unknown option": (["run", "--scenari", "x"], "--scenario"),
    "unknown scenario": (["run", "--scenario", "http_gte"], "did you mean 'http_get'"),
    "unknown parameter": (["run", "--scenario", "http_get", "-p", "paht=/x"], "did you mean 'path'"),
    "ill-typed parameter": (["run", "--scenario", "http_get", "-p", "path=3"], "path"),
    "unknown setting": (["run", "--scenario", "http_get", "-s", "users.cuont=3"], "did you mean 'count'"),
    "ill-typed setting": (["run", "--scenario", "http_get", "-s", "users.count=many"], "users.count"),
    "no value": (["run", "--scenario", "http_get", "-p", "path"], "name=value"),
    "bad threshold": (["run", "--scenario", "http_get", "--threshold", "p95 > fast"], "fast"),
    "samples without a source": (
        [
            "run",
            "--scenario",
            "http_get",
            "--target",
            "http://localhost",
            "--threshold",
            "loop_lag p99 < 9 ms",
        ],
        "set target.probes_url or target.metrics_url",
    ),
    "unknown metric": (["run", "--scenario", "http_get", "--threshold", "q95 < 3 ms"], "p95"),
    "a stranger's server": (
        ["run", "--scenario", "http_get", "--target", "http://example.com"],
        "--allow-target example.com",
    ),
    "no URL": (["run", "--scenario", "http_get", "--target", "localhost:80"], "http://host:port"),
    "server options with a target": (
        ["run", "--scenario", "http_get", "--target", "http://localhost", "-s", "server.seed=2"],
        "server.seed",
    ),
    "a value of another shape": (
        ["run", "--scenario", "http_get", "-s", "arrivals.spike_rate_per_s=5"],
        "is for shape spike",
    ),
    "a path that is none": (["run", "--scenario", "http_get", "-p", "path=count"], "starts with /"),
    "report value out of range": (["report", "SAMPLE", "-p", "bins=0"], "1 to 5000"),
    "password in URL": (["run", "--scenario", "http_get", "--target", "http://u:p@localhost"], "token_env"),
    "token not set": (
        ["run", "--scenario", "http_get", "--target", "http://localhost", "-s", "target.token_env=NOT_SET_X"],
        "NOT_SET_X",
    ),
    "no such run": (["show", "nothing"], "perfkit ls"),
    "unknown notebook parameter": (["report", "SAMPLE", "-p", "latncy=service"], "did you mean 'latency'"),
    "ill-typed notebook parameter": (["report", "SAMPLE", "-p", "bins=many"], "bins"),
    "report of no run": (["report", "nothing"], "perfkit ls"),
    "remove nothing": (["rm", "nothing"], "perfkit ls"),
    "remove an empty name": (["rm", ""], "empty"),
    "an endless duration": (["run", "--scenario", "http_get", "-s", "users.duration_s=.inf"], "inf"),
    "a negative seed": (["run", "--scenario", "http_get", "-s", "seed=-1"], "seed"),
    "a date is a text": (["run", "--scenario", "http_get", "-p", "path=2024-13-45"], "not '2024-13-45'"),
    "a section and a value": (
        ["run", "--scenario", "http_get", "-s", "target=5", "-s", "target.url=http://localhost"],
        "target",
    ),
    "tags that are no list": (["run", "--scenario", "http_get", "-s", "tags=smoke", "--tag", "x"], "list"),
    "http2 on the wire": (["run", "--scenario", "http_get", "-s", "target.http2=true"], "transport: httpx"),
    "no such certificate": (
        ["run", "--scenario", "http_get", "--target", "https://localhost", "-s", "target.ca_file=/no/such"],
        "ca_file",
    ),
    "a proxy that is none": (
        ["run", "--scenario", "http_get", "-s", "target.transport=httpx", "-s", "target.proxy=foo"],
        "proxy",
    ),
    "a port that is none": (["serve", "--port", "99999"], "port"),
    "a mistyped option of the server": (["serve", "--model-sped", "1"], "--model-speed"),
    "a mistyped option of the started server": (
        ["run", "--scenario", "http_get", "-q", "-s", "server.model_sped=1"],
        "--model-speed",
    ),
    "idle processes": (
        [
            "run",
            "--scenario",
            "http_get",
            "-s",
            "users.count=1",
            "-s",
            "users.iterations=9",
            "-s",
            "processes=2",
        ],
        "processes",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    """What was given wrong is told in one line on stderr, with the way out; nothing is written."""
    sample = Path(__file__).parents[1] / "data" / "sample" / "http_get"
    done = perfkit(*(str(sample) if one == "SAMPLE" else one for one in arguments), data=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("perfkit: ")
    assert says in line
    assert list_runs(tmp_path) == []


def test_yaml_mistakes_name_the_line(tmp_path: Path) -> None:
    """A broken YAML file is named with the line where it breaks."""
    file = tmp_path / "x.yaml"
    file.write_text("scenario: http_get\nusers: {count: 1\nseed: 1\n")
    done = perfkit("run", str(file), data=tmp_path)
    assert done.returncode == 2
    assert "x.yaml, line" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_yaml_takes_numbers_as_people_write_them_and_names_once(tmp_path: Path) -> None:
    """1e3 is a thousand; a name that stands twice in one mapping is refused, not silently the last."""
    file = tmp_path / "w.yaml"
    file.write_text("arrivals: {rate_per_s: 1e3, duration_s: 2.5e-1}")
    assert read_yaml(file) == {"arrivals": {"rate_per_s": 1000.0, "duration_s": 0.25}}
    file.write_text("seed: 1\nscenario: a\nscenario: b\n")
    with pytest.raises(BadInput, match="line 3: not YAML: 'scenario' is given twice"):
        read_yaml(file)


def test_a_scenario_file_that_does_not_work_is_named(tmp_path: Path) -> None:
    """A scenario file with a mistake gives one line with the file and the mistake."""
    file = tmp_path / "mine.py"
    file.write_text("def step(session): pass\n")
    done = perfkit("run", "--scenario", str(file), data=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "async def step" in done.stderr


def test_run_show_ls_rm(one_run: Path, server: SmallServer, tmp_path: Path) -> None:
    """A run is listed, shown and removed, as text and as JSON that agree."""
    (listed,) = json.loads(perfkit("ls", "--json", data=one_run).stdout)
    assert listed["state"] == "complete"
    assert (listed["rows"], listed["errors"], listed["tags"]) == (40, 0, "first")
    assert listed["id"] in perfkit("ls", data=one_run).stdout
    shown = json.loads(perfkit("show", listed["id"][-4:], "--json", data=one_run).stdout)
    assert shown["workload"]["users"]["iterations"] == 40
    assert shown["summary"][-1]["n"] == 40
    assert "n 40, failed 0" in perfkit("show", data=one_run).stdout

    assert run_get(server, tmp_path, "-q").returncode == 0
    (mine,) = list_runs(tmp_path)
    assert perfkit("rm", "latest", data=tmp_path).returncode == 2, "what cannot be undone wants the whole id"
    assert perfkit("rm", mine.id, data=tmp_path).returncode == 0
    assert list_runs(tmp_path) == []
    assert "no runs" in perfkit("ls", data=tmp_path).stdout


def test_a_damaged_run_hides_no_other(one_run: Path, server: SmallServer, tmp_path: Path) -> None:
    """A truncated timeline: listed as damaged beside the others, told in one line, and it can be removed."""
    for _ in range(2):
        assert run_get(server, tmp_path, "-q").returncode == 0
    damaged, good = list_runs(tmp_path)
    (damaged.path / "timeline.parquet").write_bytes(b"PAR1 and no more")
    listed = json.loads(perfkit("ls", "--json", data=tmp_path).stdout)
    assert [one["state"] for one in listed] == ["damaged", "complete"]
    shown = perfkit("show", damaged.id, data=tmp_path)
    assert (shown.returncode, len(shown.stderr.splitlines())) == (1, 1)
    assert f"{damaged.id} is damaged" in shown.stderr
    (damaged.path / "run.json").write_text("{")
    assert perfkit("rm", damaged.id, data=tmp_path).returncode == 0
    assert [run.id for run in list_runs(tmp_path)] == [good.id]


def test_a_closed_pipe_is_no_failure_of_the_tool(one_run: Path) -> None:
    """`perfkit ls | head`: exit code 141, as of a program that SIGPIPE ends; nothing is said."""
    command = f"{sys.executable} -m perfkit.cli ls --data-dir {one_run} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_no_verb_is_help_and_exit_2(tmp_path: Path) -> None:
    """`perfkit` alone prints its help as it stands, on standard error."""
    done = perfkit(data=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: perfkit [OPTIONS] COMMAND")


def test_a_data_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    """Nothing is sent; the line asks for another place."""
    (tmp_path / "file").write_text("")
    done = perfkit("run", "http://127.0.0.1:9/", "--requests", "1", "-q", data=tmp_path / "file")
    assert done.returncode == 2
    assert "choose another place (--data-dir)" in done.stderr


def test_users_that_find_no_step_are_told(server: SmallServer, tmp_path: Path) -> None:
    """Of 10 users 3 are at work where 3 requests are asked for."""
    done = perfkit("run", server.url, "--users", "10", "--requests", "3", data=tmp_path)
    assert "note: 3 steps are at most 3 users at work, of 10" in done.stderr


def test_thresholds_missed_is_exit_4(server: SmallServer, tmp_path: Path) -> None:
    """A threshold that does not hold gives exit code 4, is named, and is kept in run.json."""
    done = run_get(server, tmp_path, "-q", "--threshold", "p50 < 0.001 ms", "--threshold", "error_rate < 1 %")
    assert done.returncode == 4, done.stderr
    assert "p50 < 0.001 ms" in done.stdout
    assert "MISSED" in done.stdout
    (run,) = list_runs(tmp_path)
    assert [one.ok for one in run.meta.thresholds] == [False, True]


def test_an_overloaded_generator_is_exit_3(server: SmallServer, tmp_path: Path) -> None:
    """A scenario that blocks the event loop makes the run invalid, with the reason."""
    file = tmp_path / "blocking.py"
    file.write_text(
        "import time\n\nasync def step(session, state, rng):\n"
        "    time.sleep(0.05)\n    await session.get('/')\n"
    )
    done = perfkit("run", "-q", "--scenario", str(file), "--target", server.url,
                   "-s", "arrivals.rate_per_s=100", "-s", "arrivals.duration_s=1", data=tmp_path)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "INVALID: " in done.stdout
    assert "late" in done.stdout


def test_a_server_that_is_not_there_is_data(tmp_path: Path) -> None:
    """Nobody listens: the run is carried out, every request is a row of class connect."""
    done = perfkit("run", "-q", "--json", "--scenario", "http_get", "--target", "http://127.0.0.1:9",
                   "-s", "users.iterations=5", "-s", "users.count=1", data=tmp_path)  # fmt: skip
    (run,) = list_runs(tmp_path)
    assert run.table(["error"])["error"].to_pylist() == ["connect"] * 5
    assert json.loads(done.stdout)[0]["summary"][-1]["failed"] == 5
    shown = perfkit("show", data=tmp_path).stdout
    assert "Every request of get failed (5 of 5): 5 × connect (" in shown
    assert "none of 5 requests succeeded" in shown


def test_the_exit_codes_are_documented() -> None:
    """`perfkit --help` and the README tell the exit codes."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    text = subprocess.run([sys.executable, "-m", "perfkit.cli", "--help"], capture_output=True, text=True)
    for code, what in enumerate(("ok", "tool error", "bad input", "run invalid", "thresholds missed")):
        assert f"{code} {what}" in text.stdout
        assert f"| {code} | {what}" in readme


def test_ctrl_c_ends_the_run_readable(server: SmallServer, tmp_path: Path) -> None:
    """Ctrl-C in a run: aborted as interrupted, the rows so far are kept, exit code 130."""
    command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", "http_get"]
    command += ["--target", server.url, "-p", "path=/slow/20", "-s", "users.duration_s=60"]
    command += ["--data-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(run.files() for run in list_runs(tmp_path)):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    (run,) = list_runs(tmp_path)
    assert (run.state, run.reason) == ("aborted", "interrupted")
    assert run.row_count() > 0


def test_no_artefact_holds_the_secret(server: SmallServer, tmp_path: Path) -> None:
    """The token is sent, the server repeats it in its errors, and no file or output of the run has it."""
    settings = ("-s", "target.token_env=MY_TOKEN", "-s", f"target.headers.x-api-key={SECRET}2")
    scenario = ("--scenario", "http_get", "-p", "path=/reflect", "-s", "users.iterations=30")
    done = perfkit("run", "-q", "--json", "--target", server.url, *scenario, *settings, data=tmp_path,
                   MY_TOKEN=SECRET)  # fmt: skip
    (run,) = list_runs(tmp_path)
    texts = run.table(["error_text"])["error_text"].to_pylist()
    assert all('"authorization": "***"' in text for text in texts), "the server did reflect the header"
    report = perfkit("report", "-q", data=tmp_path, MY_TOKEN=SECRET)
    assert report.returncode == 0, report.stderr
    assert SECRET not in done.stdout + done.stderr + report.stdout + report.stderr
    artefacts = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".html" for file in artefacts)
    for file in artefacts:
        assert SECRET.encode() not in file.read_bytes(), file.name
    for column in run.table().to_pylist():
        assert SECRET not in str(column)


def test_repeats_make_runs_of_their_own(server: SmallServer, tmp_path: Path) -> None:
    """`repeats: 2` makes two runs."""
    assert run_get(server, tmp_path, "-q", "-s", "repeats=2").returncode == 0
    assert len(list_runs(tmp_path)) == 2


def test_doctor_says_what_it_found(tmp_path: Path) -> None:
    """`perfkit doctor` names each check; JSON and text agree."""
    checks = json.loads(perfkit("doctor", "--json", data=tmp_path).stdout)
    text = perfkit("doctor", data=tmp_path).stdout
    assert {"packages", "timer", "open files"} <= {check["name"] for check in checks}
    for check in checks:
        assert check["name"] in text
