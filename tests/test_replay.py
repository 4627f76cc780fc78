"""Recordings sent again: what is read of a file, what is sent when, and what is kept of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from perfkit.compare import compare
from perfkit.compare.reduce import operations_of, reduce_run
from perfkit.drive.recording import Recording, Wanted
from perfkit.drive.running import checked, run_repeats
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.importing.recordings import read_recording
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.words import describe_run
from tests.imported import import_file
from tests.small_server import SmallServer, small_server

IMPORTS = Path(__file__).parent / "imports"
BUDGET = {"delay_ms": 10_000, "cpu_share": 100, "gc_pause_ms": 60_000}
EVERY = ("GET", "HEAD", "POST", "PUT", "DELETE")
SECRET = "sesame-open-0815"
LOG = r"""
10.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "GET /a?x=1 HTTP/1.1" 200 12 "-" "curl/8" 0.1
10.0.0.2 - bob "x" [10/Oct/2026:15:55:36 +0200] "GET /b HTTP/2.0" 200 12
www.example.com:443 10.0.0.1 - - [10/Oct/2026:13:55:38 +0000] "POST /orders/17 HTTP/1.1" 201 12 "-" "-"
10.0.0.1 - - [10/Oct/2026:13:55:37 +0000] "GET /c\x22d HTTP/1.1" 404 12
10.0.0.3 - - [10/Oct/2026:13:55:37 +0000] "\x16\x03\x01" 400 0
10.0.0.1 - - [10/Oct/2026:13:55:39 +0000] "GET /a?x=1 HTTP/1.1" 200 12
""".lstrip()


def sent(found: Recording) -> list[tuple[float, str, str]]:
    """What is sent when: instant, method, path."""
    what = [found.operations[i] for i in found.which]
    return [(t, one.method, one.path) for t, one in zip(found.at_s.tolist(), what, strict=True)]


def recorded(folder: Path, name: str, text: str, speed: float = 1.0, **wanted: Any) -> Recording:
    """A file with this text, read."""
    (folder / name).write_text(text)
    return read_recording(folder / name, Wanted(**wanted), speed)


def entry(
    ms: int, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """A request of a HAR, so many ms after it began."""
    pairs = [{"name": name, "value": value} for name, value in (headers or {}).items()]
    request = {"method": method, "url": f"http://shop.example{path}", "headers": pairs, **more}
    timings = {"send": 0, "wait": 5, "receive": 1}
    started = f"2026-10-10T12:00:{ms // 1000:02}.{ms % 1000:03}Z"
    return {"startedDateTime": started, "time": 6, "request": request, "response": {"status": 200},
            "timings": timings}  # fmt: skip


def har(*entries: dict[str, Any]) -> str:
    return json.dumps({"log": {"entries": list(entries)}})


# -- reading ---------------------------------------------------------------------------------------


def test_an_access_log_is_read_in_order_and_says_what_is_left_out(tmp_path: Path) -> None:
    """By instant and, within a second, by line; zones and escapes count; other methods are counted."""
    found = recorded(tmp_path, "access.log", LOG)
    assert sent(found) == [(0, "GET", "/a?x=1"), (0, "GET", "/b"), (1, "GET", '/c"d'), (3, "GET", "/a?x=1")]
    assert found.left_out == {"POST requests (params.methods)": 1}
    assert (found.format, len(found.operations)) == ("access-log", 3)
    assert [one.name for one in found.operations] == ["GET /a", "GET /b", 'GET /c"d']
    notes = "; ".join(found.notes)
    assert "left out: 1 lines without a request" in notes
    assert "whole seconds; the requests of a second are sent together" in notes
    twice = recorded(tmp_path, "access.log", LOG, 2.0, methods=EVERY, spread=True)
    assert sent(twice)[:2] == [(0, "GET", "/a?x=1"), (0.25, "GET", "/b")]
    assert sent(twice)[3] == (1, "POST", "/orders/17")
    assert any("1 POST, PUT or PATCH requests are sent without a body" in note for note in twice.notes)
    assert "without a body" not in notes
    assert "POST /orders/{id}" in [one.name for one in twice.operations]


def test_a_har_is_read_with_headers_and_bodies_but_without_secrets(tmp_path: Path) -> None:
    """Headers that matter are kept, those of the client, its cookies and its tokens are not.

    A request whose query or body holds a secret is not sent, nor one to another host; each is counted.
    """
    own = {"Host": "shop.example", "Cookie": f"sid={SECRET}", "Authorization": f"Bearer {SECRET}",
           "X-Api-Version": "7", "sec-ch-ua": "x", ":path": "/", "Accept-Encoding": "br"}  # fmt: skip
    login = {"postData": {"mimeType": "application/json", "text": json.dumps({"password": SECRET})}}
    form = {
        "postData": {
            "mimeType": "application/x-www-form-urlencoded",
            "params": [{"name": "q", "value": "ä b"}],
        }
    }
    other = entry(40, "GET", "/x")
    other["request"]["url"] = "https://cdn.example/x"
    secret = entry(10, "POST", "/login", **login), entry(20, "GET", f"/mail?token={SECRET}")
    text = har(entry(30, "POST", "/search", **form), entry(0, "GET", "/?a=b", own), *secret, other)
    found = recorded(tmp_path, "x.har", text, methods=EVERY)
    assert sent(found) == [(0, "GET", "/?a=b"), (pytest.approx(0.03), "POST", "/search")]
    first, second = (found.operations[i] for i in found.which)
    assert first.headers == (("x-api-version", "7"),)
    assert (second.body, dict(second.headers)["content-type"]) == (
        b"q=%C3%A4+b",
        form["postData"]["mimeType"],
    )
    assert list(found.left_out.values()) == [2, 1]
    assert SECRET not in repr(found)
    with_them = recorded(tmp_path, "x.har", text, methods=EVERY, send_secrets=True)
    assert dict(with_them.operations[with_them.which[0]].headers)["cookie"] == f"sid={SECRET}"
    assert len(with_them.at_s) == 4
    assert SECRET in with_them.secrets


def test_other_tools_files_are_replayed_by_the_readers_that_import_them(tmp_path: Path) -> None:
    """A JTL by its URLs, k6's and Vegeta's by method and URL; operations are called as in an import."""
    jtl = "timeStamp,elapsed,label,responseCode,success,threadName,URL\n"
    jtl += "1795599954568,90,fast,200,true,t 1-1,http://h:80/fast?x=1\n"
    jtl += "1795599954668,90,/slow,200,true,t 1-1,http://h/slow\n1795599954768,9,JDBC,,true,t 1-1,null\n"
    found = recorded(tmp_path, "r.jtl", jtl)
    assert sent(found) == [(0, "GET", "/fast?x=1"), (pytest.approx(0.1), "GET", "/slow")]
    assert [one.name for one in found.operations] == ["fast", "/slow"]
    assert found.left_out == {"requests whose URL or path is not in the file": 1}
    assert "taken as a GET" in "; ".join(found.notes)
    imported = import_file(tmp_path / "r.jtl", data_dir=tmp_path)
    assert {"fast", "/slow"} <= set(operations_of(Part(imported)))
    k6 = read_recording(IMPORTS / "k6.json", Wanted(methods=EVERY))
    assert ("POST", "/orders/17", "POST create order") in [one[:3] for one in k6.operations]
    assert k6.left_out["requests with a secret in their query or body (params.send_secrets)"] == 3
    vegeta = read_recording(IMPORTS / "vegeta.json", Wanted(methods=EVERY))
    assert len(vegeta.at_s) + sum(vegeta.left_out.values()) == 80
    browser = read_recording(IMPORTS / "page.har", Wanted(methods=EVERY))
    assert len(browser.at_s) == 20
    assert browser.left_out == {"requests to other hosts than 127.0.0.1:8765 (params.host)": 1}


def test_a_trace_has_times_since_a_start_or_since_1970(tmp_path: Path) -> None:
    """Numbers are seconds, with a body it is JSON or text; both kinds of times in one file are refused."""
    text = 'time,method,path,body\n0.5,GET,/a,\n0.25,put,/b,"{""x"": 1}"\n1.75,DELETE,/b,\n'
    found = recorded(tmp_path, "trace.csv", text, 0.5, methods=EVERY)
    assert sent(found) == [(0, "PUT", "/b"), (0.5, "GET", "/a"), (3, "DELETE", "/b")]
    put = found.operations[found.which[0]]
    assert (put.body, put.headers) == (b'{"x": 1}', (("content-type", "application/json"),))
    iso = "time,method,path\n2026-10-10T12:00:00Z,GET,/a\n2026-10-10T12:00:00.5Z,GET,/b\n"
    assert recorded(tmp_path, "trace.csv", iso).at_s.tolist() == [0, 0.5]
    with pytest.raises(BadInput, match="line 3: time '1790000000'"):
        recorded(tmp_path, "trace.csv", "time,method,path\n1,GET,/a\n1790000000,GET,/a\n")


def test_a_log_may_begin_with_a_broken_line(tmp_path: Path) -> None:
    """It is a log all the same: the line is named, or skipped and counted."""
    with pytest.raises(BadInput, match=r"line 1: another line.*skip_broken"):
        recorded(tmp_path, "access.log", f"oops\n{LOG}")
    found = recorded(tmp_path, "access.log", f"oops\n{LOG}", skip_broken=True)
    assert (found.format, found.left_out["broken places"], len(found.which)) == ("access-log", 1, 4)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.log", LOG.replace('GET /c\\x22d HTTP/1.1" 404 12', "oops"), "line 4: another line.*skip_broken"),
        ("a.log", LOG.replace("GET", "PATCH"), "no request of it can be sent: 4 PATCH.*1 POST requests"),
        ("x.csv", "time,method,path\n", "lists no requests"),
        ("wrk.txt", (IMPORTS / "wrk.txt").read_text(), "lists no requests"),
        (
            "locust.csv",
            (IMPORTS / "locust_history.csv").read_text(),
            "counts requests and does not list them",
        ),
        ("x.txt", "hello\n", "unknown format"),
        ("t.csv", "time,method,path\n1,GET,nowhere\n", "URL or path is not in the file"),
        ("t.csv", 'time,method,path\n1,GET,"/a\rb"\n', "does not allow|not in the file|broken|line"),
    ],
)
def test_what_cannot_be_replayed_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    """In one line, with what is wrong and what to do."""
    with pytest.raises(BadInput) as refused:
        recorded(tmp_path, name, text)
    assert re.search(words, str(refused.value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrivals": {"shape": "replay"}}, "shape replay needs file"),
        ({"arrivals": {"file": "x.csv"}}, "arrivals.file is for shape replay"),
        ({"arrivals": None}, "give arrivals: {shape: replay"),
        ({"users": {"count": 1, "iterations": 1}, "arrivals": None}, "needs arrivals: {shape: replay"),
        ({"scenario": "http_get"}, "are for scenario replay"),
        ({"arrivals": {"rate_per_s": 5}}, "arrivals.rate_per_s: the recording says it"),
        ({"arrivals": {"sha256": "0" * 64}}, "is another file"),
        ({"warmup_s": 60}, "the recording lasts 0.3 s"),
        ({"params": {"methods": ["CONNECT"]}}, "methods takes names"),
        ({"arrivals": {"file": "none.csv"}}, "cannot read none.csv"),
    ],
)
def test_a_wrong_workload_is_refused_before_the_run(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """What does not go together is said, whatever else is right."""
    file = tmp_path / "trace.csv"
    file.write_text("time,method,path\n0,GET,/a\n0.3,GET,/b\n")
    given: dict[str, Any] = {"scenario": "replay", "arrivals": {"shape": "replay", "file": str(file)}}
    arrivals = changes.pop("arrivals", {})
    if arrivals is None:
        del given["arrivals"]
    elif arrivals in ({"shape": "replay"}, {"file": "x.csv"}):
        given["arrivals"] = arrivals
    else:
        given["arrivals"] |= arrivals
    with pytest.raises(BadInput, match=re.escape(words)):
        complete(given | changes, "test")


def test_a_scenario_of_ones_own_may_make_the_recording(tmp_path: Path) -> None:
    """Its `recording` says what is sent when; one that returns anything else is refused."""
    file = tmp_path / "mine.py"
    text = "async def step(session, state, rng): ...\ndef recording(params, arrivals): return "
    file.write_text(f"{text}3\n")
    given = {"scenario": str(file), "arrivals": {"shape": "replay", "file": "any"}}
    with pytest.raises(BadInput, match="recording returned int, not a Recording"):
        complete(given, "test")
    what = "np.array([0, 1.5, 2]), np.zeros(3, np.int32), (Operation('GET', '/', 'x'),)"
    made = f"Recording('any', 'mine', '0', {what})"
    imports = "import numpy as np\nfrom perfkit.drive.recording import Operation, Recording\n"
    file.write_text(f"{imports}{text}{made}\n")
    workload, _, _ = complete(given | {"warmup_s": 1}, "test")
    assert workload.arrivals is not None
    assert (workload.arrivals.duration_s, workload.arrivals.rate_per_s) == (1.5, pytest.approx(2 / 1.5))


# -- sending ---------------------------------------------------------------------------------------


def replayed(server: SmallServer, data: Path, file: Path, speed: float, **more: Any) -> Run:
    """Replay a file against the server."""
    arrivals = {"shape": "replay", "file": str(file), "speed": speed}
    given = {
        "scenario": "replay",
        "arrivals": arrivals,
        "target": {"url": server.url},
        "budget": BUDGET,
    } | more
    (made,) = run_repeats(checked(given, "test", ()), data, show_progress=False)
    assert made.state == "complete"
    return made


def test_two_workers_send_the_recording_exactly(tmp_path: Path) -> None:
    """Order, operations and distances in time are the file's ÷ speed, to a nanosecond, warm-up included.

    run.json has the digest, what was left out, and no folder; the run says it in words.
    """
    rng = np.random.default_rng(1)
    times = np.sort(rng.uniform(0, 2, 41)).round(6)
    kinds = [("POST", "/write") if i % 8 == 7 else ("GET", f"/read/{'abc'[i % 3]}?n={i}") for i in range(41)]
    lines = [f"{t:.6f},{method},{path}\n" for t, (method, path) in zip(times, kinds, strict=True)]
    file = tmp_path / "trace.csv"
    file.write_text("time,method,path\n" + "".join(lines))
    with small_server() as server:
        made = replayed(server, tmp_path, file, 2, processes=2, warmup_s=0.25)
        seen = dict(server.requests)
    kept = [i for i, (method, _) in enumerate(kinds) if method == "GET"]
    rows = [one for one in made.table().sort_by("step").to_pylist() if one["phase"] in ("warmup", "measure")]
    assert seen == {f"GET {kinds[i][1]}": 1 for i in kept}
    assert [one["operation"] for one in rows] == [f"GET {kinds[i][1].partition('?')[0]}" for i in kept]
    distances = np.diff([one["planned"] for one in rows])
    assert np.abs(distances - np.diff(times[kept]) / 2 * 1e9).max() < 0.01
    assert {one["worker"] for one in rows} == {0, 1}
    warm = int((times[kept] / 2 - times[kept[0]] / 2 < 0.25).sum())
    assert [one["phase"] for one in rows] == ["warmup"] * warm + ["measure"] * (len(rows) - warm)
    replay, arrivals = made.meta.replay, made.meta.arrivals
    assert replay is not None
    assert arrivals is not None
    assert (replay.requests, replay.left_out) == (len(kept), {"POST requests (params.methods)": 5})
    assert (arrivals.file, arrivals.sha256) == ("trace.csv", replay.sha256)
    assert str(tmp_path) not in (made.path / "run.json").read_text()
    told = describe_run(made)
    assert f"replays {len(kept)} requests of trace.csv" in told
    assert "left out: 5 POST requests" in told
    assert "replay, trace.csv at 2 ×" in told


def test_secrets_that_are_asked_for_are_sent_and_kept_nowhere(tmp_path: Path) -> None:
    """The server gets cookie and token, and repeats them; no file of the run has them."""
    file = tmp_path / "x.har"
    file.write_text(har(entry(0, "POST", f"/reflect?token={SECRET}", {"Cookie": f"sid={SECRET}"})))
    with small_server() as server:
        params = {"methods": ["POST"], "send_secrets": True}
        made = replayed(server, tmp_path / "data", file, 1, params=params)
        assert server.heads[-1]["cookie"] == f"sid={SECRET}"
        assert server.requests[f"POST /reflect?token={SECRET}"] == 1
    (text,) = made.table()["error_text"].to_pylist()
    assert "***" in text
    assert SECRET not in json.dumps(made.table().to_pylist(), default=str)
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_a_recording_and_its_replay_get_reasons_instead_of_a_verdict(tmp_path: Path) -> None:
    """What is the same and what cannot be compared is said; the server got no cookie, but the other header.

    The load of a replay changes by plan: nobody looks for drift in it.
    """
    headers = {"Cookie": f"sid={SECRET}", "X-Kind": "plain"}
    file = tmp_path / "x.har"
    kinds = ["POST" if i == 3 else "GET" for i in range(120)]
    file.write_text(har(*(entry(5 * i, kind, f"/p/{i % 2}", headers) for i, kind in enumerate(kinds))))
    original = import_file(file, data_dir=tmp_path)
    with small_server() as server:
        made = replayed(server, tmp_path, file, 2)
        assert {one["x-kind"] for one in server.heads} == {"plain"}
        assert SECRET not in json.dumps(server.heads)
    found = compare([original], [made])
    assert found.verdict == "refused"
    words = found.words
    assert f"{made.id} replays x.har, from which {original.id} was imported" in words
    assert "as recorded ÷ 2; requests by operation (POST /p/1 1 and 0); failures, 0 of 120" in words
    assert "not in the replay: 1 POST requests" in words
    assert "not comparable: latency, which HAR measured" in words
    assert "not comparable: throughput" in words
    assert any("its load changes by plan" in note for note in reduce_run(made).notes)


def test_the_guide_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload of the guide replays an access log; its table names every parameter."""
    guide = (Path(__file__).parents[1] / "docs" / "replay.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", guide, re.S)
    assert all(f"`{name}`" in guide or f"{name}:" in guide for name in Wanted.__dataclass_fields__)
    (tmp_path / "access.log").write_text(LOG)
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load(text)
    with small_server() as server:
        given |= {"target": {"url": server.url}, "budget": BUDGET}
        (made,) = run_repeats(checked(given, "guide", ()), tmp_path, show_progress=False)
        assert sum(server.requests.values()) == 5
    assert made.state == "complete"
