"""From where on what a server's probes or the client's rows show is a finding: all limits in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """From where on something is a finding."""

    blocked_ms: float = 100.0  #: of one block of the event loop; three by the same code, or one of 1 s
    model_ttft_ms: float = 1000.0  #: median time to the model's first token
    limit_reached: int = 1  #: of the service's own, how often
    model_retries: int = 5  #: of calls of the model,
    model_retry_share: float = 0.05  #: of its answers
    cache_hits: float = 0.5  #: share of lookups
    cache_lookups: int = 50
    cpu_share: float = 0.8  #: of one core, by one server process in a second
    cpu_seconds: int = 2  #: and in half of the run's seconds, or in ten
    lag_ms: float = 250.0  #: of the loop where no hang report says by what; three times, or once 1 s
    no_core_share: float = 0.3  #: of the time of a block in which no code ran: the machine's, not the loop's
    memory_mb: float = 48.0  #: by which memory grew steadily, and a fifth of what it was
    growth_share: float = 0.2
    fds: int = 50  #: by which open files and sockets grew beyond the clients' number, and by half
    fds_share: float = 0.8  #: of the limit
    tasks: int = 100  #: by which tasks grew beyond the clients' number, and doubled
    threads: int = 40  #: the same of threads
    executor_queue: int = 3  #: calls that wait for a thread of an executor,
    executor_share: float = 0.2  #: in so many of its samples
    rest_share: float = 0.5  #: of the slowest requests' time that is in no part of it,
    rest_ms: float = 250.0  #: and on average
    waiting_share: float = 0.02  #: of a pool's samples in which a checkout was waiting
    overflow_share: float = 0.1  #: of a pool's samples in which it had connections beyond its size
    unused_connections: int = 3  #: that are out and run nothing until the end, for longer than any request
    scan_rows: float = 500.0  #: read by a sequential scan, on average,
    scans: int = 20  #: and how many of them
    repeats: float = 10.0  #: of the same statement in a request, on average,
    repeating_requests: int = 5  #: in so many requests
    lock_looks: int = 3  #: at the database in which statements waited for locks,
    lock_wait_ms: float = 100.0  #: and the longest of these waits
    database_share: float = 0.5  #: of the requests' time that was the database's,
    round_trip_ms: float = 10.0  #: and the median way there and back,
    statement_ms: float = 100.0  #: or the mean of a statement
    failed_share: float = 0.2  #: of an operation's requests: it is failing; below it, some of them failed
    burst_failures: int = 5  #: in one second, and half of what ended in it: a burst
    burst_time_share: float = 1 / 3  #: of the run's seconds: so many, or more, are no bursts
    burst_excess: float = 3.0  #: the bursts' share of the failures, as a multiple of that of the time
