"""Broken workload files, and workloads at the edge of what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.drills import mutate
from tests.drills.cases import ROOT, Case, Given

EVERYTHING = """\
scenario: http_get
params: {path: /v1/health/}
target:
  url: http://127.0.0.1:9
  transport: wire
  timeout_s: 5
  connect_timeout_s: 1.5
  connections: 50
  keepalive_s: 4
  headers: {x-client: perfkit, cookie: "lang=en"}
  verify_tls: true
  follow_redirects: false
  retries: 1
  max_body_mb: 64
  probes_url: http://127.0.0.1:9
  metrics_url: [http://127.0.0.1:9/metrics]
users: &load {count: 3, iterations: 5, think_time_s: [0.0, 0.1]}
warmup_s: 0.5
drain_s: 2
seed: 7
repeats: 2
processes: 2
budget: {delay_ms: 10, delay_share: 0.1, cpu_share: 0.9, gc_pause_ms: 100}
thresholds:
  - p95 < 300 ms
  - error_rate < 1 %
tags: [one, two]
"""
_TOKENS = ("*load", "&a [*a]", "<<: *load", "!!python/object/apply:os.system [id]", "!!binary aGk=",
"!!set {a}",
           "!!timestamp x", "? [a, b]\n: c\n", "? {a: b}\n: c\n", "---\n", "...\n", "%YAML 9.9\n",
           "|\n  x\n", "~", ".nan",
           "-.inf", "1e308", "1e-300", "0x1F", "0o17", "1:30", "2024-13-45", "2024-01-01", "9" * 5000, "@",
           "`", "{", "[",
           "[" * 3000, "{a: " * 300, "\t", "\0", "\x1b[31m", "\u202e", ": ", "- ", "'", '"', '"\\x1b[31m"',
           "#", "null",
           "true", "[]", "{}", "''", "x" * 50_000)  # fmt: skip
_BOMBS = (
    "[&b0 [x, x], " + ", ".join(f"&b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 10)) + "]",
    "{b0: &b0 {x: y}, " + ", ".join(f"b{i}: &b{i} {{{', '.join(f'k{j}: *b{i - 1}' for j in range(9))}}}"
                                    for i in range(1, 10)) + "}",
    "{b0: &b0 {x: y}, " + ", ".join(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}], k{i}: 1}}"
                                    for i in range(1, 10)) + "}",
    "&b [*b]", "&b {x: *b}", "{? &b [*b] : 1}", "{? {a: b} : 1}", "[" * 5000 + "]" * 5000,
    "{a: " * 500 + "}" * 500,
    "!!set {? [a] : }", "!!omap [a: 1]", "!!pairs [a: 1]", "!!int ''", "!!float x", "!!null x", "!!bool x",
)  # fmt: skip


def yaml_case(rng: Random, folder: Path, given: Given) -> Case:
    """A workload file that is broken, given to a verb that reads one; the load itself is not begun."""
    bases = [*sorted((ROOT / "params").rglob("*.yaml")), None, None, None, None, None, None]
    base = rng.choice(bases)
    content, words = _yaml(rng, base.read_text() if base else EVERYTHING)
    (folder / "mutant.yaml").write_bytes(content)
    (folder / "good.yaml").write_text(EVERYTHING)
    steps = [{"argv": [*_yaml_verb(rng), "--data-dir", "data"]}]
    for option in ("-s", "-p"):
        if rng.random() < 0.05:
            value = rng.choice(
                (*_TOKENS, "users.count=x", "target=3", "a.b.c=1", "path=[", "users.count=1e400")
            )
            steps[0]["argv"] += [option, value] if steps[0]["argv"][0] == "run" else []
    # an argument of a command line cannot hold a NUL
    steps[0]["argv"] = [part.replace("\0", "") for part in steps[0]["argv"]]
    before = [{"call": "tests.drills.calls:stop_at_load", "arguments": []}]
    return Case(f"{base.name if base else 'everything'}: {words}", before + steps)


def _yaml_verb(rng: Random) -> list[str]:
    return rng.choice([["run", "mutant.yaml", "-q"]] * 12 + [
        ["batch", "good.yaml", "mutant.yaml", "-q"],
        ["compare", "mutant.yaml", "mutant.yaml", "-q", "--no-report"],
        ["compare", "good.yaml", "mutant.yaml", "-q", "--no-report"],
        ["gate", "good.yaml", "mutant.yaml", "-q"],
        ["aa", "mutant.yaml", "-q"],
        ["report", "no-such-run", "-f", "mutant.yaml", "-q"],
    ])  # fmt: skip


def _yaml(rng: Random, given: str) -> tuple[bytes, str]:
    kind = rng.choice(("tree",) * 9 + ("text",) * 9 + ("bytes", "bomb", "bomb"))
    times = rng.choice((1, 1, 1, 2, 4))
    if kind == "tree":
        changed, words = mutate.tree(rng, yaml.safe_load(given), times)
        return _dumped(changed), words
    if kind == "bomb":
        return _bombed(rng, given)
    if kind == "bytes":
        return mutate.damaged(rng, given.encode())
    words = []
    for _ in range(times):
        given, word = mutate.text(rng, given, _TOKENS)
        words.append(word)
    content, word = mutate.encoded(rng, given)
    return content, "; ".join([*words, word])


def _bombed(rng: Random, given: str) -> tuple[bytes, str]:
    """One value replaced by something that grows, recurs, or cannot be a key."""
    lines = given.splitlines(keepends=True)
    at = rng.choice([i for i, line in enumerate(lines) if ": " in line and line.strip()[0] not in "#-"])
    which = rng.randrange(len(_BOMBS))
    lines[at] = f"{lines[at].partition(':')[0]}: {_BOMBS[which]}\n"
    return "".join(lines).encode(), f"line {at + 1} = {_BOMBS[which]:.60}"


def _dumped(value: Any) -> bytes:
    try:
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, RecursionError, UnicodeError):
        text = mutate.as_json(value)
    return text.encode(errors="surrogatepass")


_SMALL = {
    "scenario": "http_get", "params": {"path": "/thing"}, "warmup_s": 0.1, "drain_s": 1.0, "seed": 1,
    "processes": 1,
    "target": {"timeout_s": 2.0, "connect_timeout_s": 1.0, "connections": 10, "keepalive_s": 4.0,
    "retries": 0,
               "max_header_kb": 64, "max_body_mb": 64},
    "budget": {"delay_ms": 10.0, "delay_share": 0.1, "cpu_share": 0.9, "gc_pause_ms": 100.0},
    "thresholds": ["p95 < 300 ms"], "tags": ["one"],
}  # fmt: skip
_LOADS = (
    {"users": {"count": 2, "iterations": 20, "think_time_s": 0.001}},
    {"users": {"count": 2, "duration_s": 0.5, "think_time_s": [0.0, 0.01]}},
    {"arrivals": {"shape": "poisson", "rate_per_s": 50, "duration_s": 0.5}},
    {"arrivals": {"shape": "ramp", "rate_per_s": 50, "duration_s": 0.5, "start_rate_per_s": 1}},
    {"arrivals": {"shape": "steps", "step_rates_per_s": [10, 50], "duration_s": 0.5}},
    {"arrivals": {"shape": "spike", "rate_per_s": 20, "duration_s": 0.5, "spike_rate_per_s": 60,
    "spike_at_s": 0.1,
                  "spike_for_s": 0.2}},
    {"arrivals": {"shape": "soak", "rate_per_s": 50, "duration_s": 0.5, "ramp_s": 0.1}},
)  # fmt: skip
_EXTREMES = (0, 1, 2, 7, 64, 1000, 10**6, 10**9, 2**31, 2**53, 2**63 - 1, 1e-9, 1e-3, 0.5, 1e15, 1e18, 1e300)


def run_case(rng: Random, folder: Path, given: Given) -> Case:
    """A workload with a number or two at the edge of what is allowed, carried out and interrupted."""
    workload = json.loads(json.dumps(_SMALL | rng.choice(_LOADS)))
    words = []
    for _ in range(rng.choice((1, 1, 2))):
        places = [place for place in mutate.places(workload) if isinstance(place[0][place[1]], int | float)
                  and place[1] != "processes"]  # fmt: skip
        holder, key, path = rng.choice(places)
        holder[key] = rng.choice(_EXTREMES)
        words.append(f"{path} = {holder[key]}")
    (folder / "work.yaml").write_text(json.dumps(workload))
    argv = ["run", "work.yaml", "-q", "--target", given.url, "--data-dir", "data"]
    steps = [{"call": "tests.drills.calls:interrupt_after", "arguments": [3.0]}, {"argv": argv,
    "cpu_ok_s": 30},
             {"argv": ["ls", "--data-dir", "data"]}]  # fmt: skip
    return Case("; ".join(words), steps)
