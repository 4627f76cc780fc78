"""Load from two hosts (network namespaces): a seeded sample of `tests.drills.hosts`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dask_cluster import Cluster, dask_cluster
from tests.drills.hosts import DRILLS, carry_out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with dask_cluster(tmp_path_factory.mktemp("hosts")) as running:
        yield running


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", DRILLS)
def test_a_part_of_the_load_that_is_lost_is_reported(cluster: Cluster, name: str) -> None:
    """Whatever ends a shard: the run is aborted and says why, nothing is sent twice, nobody goes on."""
    found = carry_out(cluster, DRILLS[name], 1, seed=7)
    assert not [one.faults for one in found if one.faults], found
