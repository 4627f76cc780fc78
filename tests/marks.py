"""Marks of tests."""

import pytest

#: for a test that holds a real clock to its word: a machine that is busy may break it, so it is tried again,
#: and fails when it failed four times
on_the_clock = pytest.mark.flaky(reruns=3, reruns_delay=1)
