"""Files that are known and not read: what one is, and what to export in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from perfkit.importing.head import Head

_ROWS = ("a CSV with a row per request can be imported with --column started_unix_s=… "
         "--column duration_ms=… (see `perfkit import --help`)")  # fmt: skip
_NS = "with --column started_unix_ns=… --column done_unix_ns=…"
_JTL = "import the JTL of the same run (jmeter -l results.jtl)"
_LOG = "import the simulation.log of the same run (text format, up to Gatling 3.9)"
_K6 = "import what k6 writes with --out json=FILE or --summary-export=FILE"
_LOCUST = "import NAME_stats.csv or NAME_stats_history.csv of the same run (locust --csv NAME)"
#: Names that stand in a tool's JSON, what such a file is, and what to do.
_JSON = (
    ({"numberOfRequests", "meanResponseTime", "percentiles1"}, "Gatling's statistics", _LOG),
    ({"p97_5", "non2xx", "latency"}, "autocannon's JSON",
     f"collect the `response` events of its API; {_ROWS}"),
    ({"metadata", "metrics", "request_start_ns"}, "AIPerf's record of each request",
     f"make a CSV of request_start_ns and request_end_ns, and import it {_NS}"),
    ({"metadata", "metrics", "was_cancelled", "error"}, "AIPerf's record of each request", _ROWS),
    ({"request_throughput", "request_latency", "unit"}, "AIPerf's or genai-perf's summary", _ROWS),
    ({"experiments", "requests", "response_timestamps"}, "genai-perf's profile",
     f"make a CSV of timestamp and the last of response_timestamps, and import it {_NS}"),
    ({"benchmarks", "request_latency", "time_to_first_token_ms"}, "GuideLLM's benchmarks", _ROWS),
    ({"request_throughput", "mean_ttft_ms"}, "a benchmark of vLLM's or SGLang's", _ROWS),
    ({"sampleCount", "errorPct", "pct1ResTime"}, "JMeter's statistics.json", _JTL),
    ({"RunType", "ActualQPS", "DurationHistogram"}, "Fortio's JSON",
     f"let it log requests (-access-log-file FILE); {_ROWS}"),
    ({"transactions", "availability", "elapsed_time"}, "Siege's JSON", f"it keeps no requests; {_ROWS}"),
    ({"ScenarioName", "Latency", "Percent50"}, "NBomber's report", _ROWS),
    ({"collection", "run", "executions"}, "Newman's JSON", _ROWS),
    ({"_postman_id", "item"}, "a Postman collection", "run it, and import what the run wrote"),
)  # fmt: skip
#: Columns, of which the first is the first of the file.
_HEADERS = (
    (("Metric", "avg", "min", "max"), "AIPerf's or genai-perf's CSV", _ROWS),
    (("Label", "# Samples", "Average"), "a summary or aggregate report of JMeter's", _JTL),
    (("test_suite", "test_name", "scenario"), "NBomber's CSV", _ROWS),
    (("Method", "Name", "Error", "Occurrences"), "Locust's NAME_failures.csv", _LOCUST),
    (("Count", "Message", "Traceback"), "Locust's NAME_exceptions.csv", _LOCUST),
    (("Name", "# requests", "50%"), "Locust's NAME_distribution.csv",
     "import NAME_requests.csv of the same run"),
    (("response-time", "DNS+dialup"), "hey's CSV without `offset`, so without instants",
     "import that of a newer hey, or what hey prints"),
)  # fmt: skip
_TEXTS = (
    (r'.{0,2000}\[\d{1,2}/[A-Z][a-z]{2}/\d{4}:[\d:.]+ [+-]\d{4}\] "', "a web server's access log",
     "it does not say how long requests took; send them again with arrivals: {shape: replay, file: …}"),
    (r"# stats: dump at \d", "Tsung's log",
     'set dumptraffic="protocol" in its <tsung>: tsung.dump has each request; ' + _ROWS),
    (r"\s*(?:Lifting the server siege|\*\* SIEGE )", "what Siege prints", f"it keeps no requests; {_ROWS}"),
    (r"\s*Date & Time,\s*Trans,", "Siege's log", f"it keeps no requests; {_ROWS}"),
    (r"\s*Summary:\s+Success rate:", "what oha prints",
     "let it write --output-format json or csv, or --db-url FILE"),
    (r"\s*Summary:\s+Count:\s", "what ghz prints",
     f"`details` of its JSON (--format json) has each request; {_ROWS}"),
    (r"\s*Bucket\s+#\s+%\s+Histogram", "a histogram of Vegeta's",
     "import what vegeta report -type json or vegeta encode writes"),
    (r"\s*<\?xml[^>]*>\s*<jmeterTestPlan", "a JMeter test plan",
     "run it (jmeter -n -t plan.jmx -l results.jtl) and import results.jtl"),
    (r"\s*(?:var|const) stats = \{", "Gatling's statistics", _LOG),
)  # fmt: skip
_PAGES = (
    (r"<title>\s*k6\b|K6 Load Test|k6-reporter|k6 report", "an HTML report of k6's", _K6),
    (r"<title>\s*Test Report for |window\.templateArgs", "an HTML report of Locust's", _LOCUST),
    (r"<title>\s*Gatling|gatling\.js", "an HTML report of Gatling's", _LOG),
    (r"const viewModel =", "an HTML report of NBomber's", _ROWS),
    (r"Apache JMeter Dashboard", "an HTML report of JMeter's", _JTL),
)
_GATLING = re.compile(rb"\0\0\0\0[\5-\x14]\d+\.\d+")


def advice(head: Head) -> str | None:
    """What a file is that perfkit does not read, and what to give in its place; None where nobody knows."""
    found = next(_known(head), None)
    return found and f"this is {found[0]}, which perfkit cannot read; {found[1]}"


def _known(head: Head) -> Iterator[tuple[str, str]]:
    """What a file may be, and what to do, the likeliest first."""
    if _GATLING.match(head.raw):
        yield ("Gatling's binary simulation.log (3.10 and later)",
               f"Gatling up to 3.9 writes it as text, which is read; {_ROWS}")  # fmt: skip
    if head.raw.startswith(b"PK\3\4"):
        yield "a zip, or a document that is one (.xlsx, .har.zip)", "unpack it, or save its sheet as CSV"
    first = tuple(head.cells())
    text = head.text[:200_000]
    yield from ((what, instead) for names, what, instead in _JSON if names <= head.keys)
    yield from (
        (what, instead)
        for names, what, instead in _HEADERS
        if names[:1] == first[:1] and set(names) <= set(first)
    )
    yield from ((what, instead) for pattern, what, instead in _TEXTS if re.match(pattern, text))
    if re.match(r"\s*(?:<!--.*?-->\s*)?<(?:!doctype )?html", text, re.I):
        yield from ((what, instead) for pattern, what, instead in _PAGES if re.search(pattern, text, re.I))
