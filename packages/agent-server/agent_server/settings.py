"""What the server can be told; each field is an option of `perfkit serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All knobs with their defaults; experiments turn one at a time."""

    host: str = "127.0.0.1"
    port: int = 8283  #: 0 takes any free one
    database_url: str | None = None  #: PostgreSQL or SQLite; None: an embedded PostgreSQL
    data_dir: Path | None = None  #: of the embedded PostgreSQL; None: temporary, removed at the end
    pool_size: int = 20
    max_overflow: int = 10
    pool_timeout_s: float = 30.0
    agent_cache: bool = True  #: keep agent states in memory between requests
    llm_config_cache: bool = True  #: keep what the model's provider said of it
    embedding_config_cache: bool = True  #: the same of the embedding's
    query_cache: bool = False  #: keep the answers of lists of agents
    cache_max_age_s: float = 0.0  #: so long at most, all of them; 0: for ever where no change goes unseen
    one_by_one: bool = False  #: read the agents of a list one by one
    prefill_agents: int = 0  #: agents that are there before the first request
    prefill_messages: int = 0  #: of these agents
    read_replica: bool = False  #: read from a second embedded PostgreSQL that follows the first
    replica_url: str | None = None  #: read from this one, which follows `database_url`
    replica_max_lag_ms: float = 500.0  #: read from the primary while the replica is further behind
    indexes: bool = True  #: the indexes on agent_id of passages and messages
    blocking_ms: float = 0.0  #: block the event loop so long in every message
    leak_every: int = 0  #: keep the database connection of every so many messages; 0: give all back
    database_delay_ms: float = 0.0  #: of the network to the database, in each direction
    statements_per_message: int = 0  #: more of them, one by one, in every message
    hot_row_ms: float = 0.0  #: keep a row that all messages change locked so long
    timeout_every: int = 0  #: let a statement of every so many messages run into a timeout
    kill_every: int = 0  #: have the database end a session in every so many messages
    query_timeout_s: float = 0.0  #: the longest a statement may take in PostgreSQL; 0: as long as it likes
    model_timeout_s: float = 0.0  #: the longest wait for the model's next token or embedding; 0: any
    tool_timeout_s: float = 0.0  #: the longest a tool may take; 0: as long as it likes
    request_timeout_s: float = 0.0  #: the longest a request may take; 0: as long as it likes
    max_requests: int = 0  #: at once in one process, others are refused; 0: any number
    model_retries: int = 2  #: how often a call of the model that failed is repeated
    model_backoff_s: float = 0.2  #: the longest pause before the first repetition, twice that before the next
    model_backoff_max_s: float = 5.0  #: and so on, up to this
    slow_query_ms: float = 0.0  #: have a statement of every message take so long
    tool_hang_ms: float = 0.0  #: let the agent's tool hang so long
    model_failure_share: float = 0.0  #: of the model's calls that it refuses
    leak_memory_mb: float = 0.0  #: keep so much memory of every message
    leak_files: int = 0  #: leave so many files open in every message
    leak_tasks: int = 0  #: leave so many tasks waiting in every message
    leak_threads: int = 0  #: leave so many threads waiting in every message
    executor_ms: float = 0.0  #: hold one of an executor's two threads so long in every message
    lock_ms: float = 0.0  #: hold a lock that all messages share so long in every message
    model_speed: float = 1.0  #: 2 is twice as fast; 0 does not wait at all
    seed: int = 1
    password: str | None = None  #: accepted as a bearer token beside the users' keys
    secure: bool = False  #: refuse requests without a key or the password
    insecure_public: bool = False  #: listen to other machines without `secure`
    instances: int = 1  #: server processes behind a round robin
    workers: int = 0  #: processes beside them that do the background work, and nothing else
    role: str = "all"  #: api: no background work; worker: nothing else; all: both
    probes: bool = True  #: watch the pool, the event loop and every request
    trace_memory: bool = False  #: name the lines whose objects grow; Python is 5 to 27 times slower
    leak_after_s: float = 30.0  #: a connection out for so long without a statement is leaked
    hang_after_s: float = 0.2  #: a blocked event loop is reported when it has been so for so long
    hang_check_s: float = 0.05
    scheduler_poll_s: float = 0.5  #: how often the leader looks for batches
    scheduler_retry_s: float = 5.0  #: how often the others try to lead
    scheduler_check_s: float = 2.0  #: how often the leader makes sure that it is one
    scheduler_lease_s: float = 5.0  #: a leader that could not for so long is none
    log_level: str = "warning"
