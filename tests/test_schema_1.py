"""Runs of perfkit 0.1.0's first schema stay readable: two real ones are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from perfkit.compare.reduce import reduce_run
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from perfkit.store.words import describe_run

SAMPLE = Path(__file__).parents[1] / "data" / "sample"


@pytest.mark.parametrize("name", ["http_get", "agent_mass_creation"])
def test_a_run_of_schema_1_is_read(name: str) -> None:
    """Its verdict and its numbers; what it never had is null."""
    run = Run(SAMPLE / name)
    raw = pq.read_table(run.path / "timeline.parquet").to_pandas()
    raw = raw[(raw["phase"] == "measure") & raw["error"].isna()]
    assert (run.meta.schema, run.verdict.word) == (1, "VALID")
    assert "sending" not in raw
    part = Part(run)
    total = summarize(part)[-1]
    assert total["p50"] == np.quantile((raw["done"] - raw["planned"]) / 1e6, 0.5)
    told = part.row(
        "SELECT count(ttft_ms) AS streams, count(sending) AS sending, median(queue_ms) AS q FROM part"
        " WHERE ok"
    )
    assert told["streams"] == 0
    assert told["q"] == pytest.approx(np.median((raw["sent"] - raw["started"]) / 1e6))
    assert told["sending"] == 0
    assert reduce_run(run).value("all operations", "throughput") is not None
    assert "valid" in describe_run(run)
