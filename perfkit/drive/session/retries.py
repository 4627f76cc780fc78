"""How long to wait before a request is sent again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

#: No wait is longer, whatever the server asks for.
LONGEST_S = 30.0


def backoff_s(
    base_s: float, retry: int, seeds: Sequence[int], headers: Sequence[tuple[bytes, bytes]]
) -> float:
    """Return the seconds to wait before retry 1, 2, …: from 0 to base · 2^(retry - 1) ("full jitter").

    No less than the response's Retry-After (RFC 9110, 10.2.3) says, and at most 30 s.
    seeds: the same numbers give the same wait.
    """
    highest = min(LONGEST_S, base_s * 2.0 ** (retry - 1))
    jitter = random.Random(":".join(map(str, ("retry", *seeds)))).uniform(0.0, highest)
    return min(LONGEST_S, max(jitter, _retry_after_s(headers)))


def _retry_after_s(headers: Sequence[tuple[bytes, bytes]]) -> float:
    """What the server asks for: seconds or a date; 0 without, and for what is neither."""
    text = dict(headers).get(b"retry-after", b"").decode("latin-1").strip()
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
