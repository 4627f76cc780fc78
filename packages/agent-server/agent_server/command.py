"""The options of `perfkit serve`. Imports click only; the server itself is loaded when it starts."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from agent_server.settings import Settings

_D = Settings()
_LONGEST_S = 86_400  # of any option in seconds
_MOST = 1_000  # connections of a pool


class Number(click.FloatRange):
    """A number between two bounds; nan, which is neither below nor above any, is not one."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """See click."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


@click.command("serve")
@click.option("--host", default=_D.host, show_default=True,
              help="Address to listen on; another than this machine's own needs --secure.")  # fmt: skip
@click.option(
    "--port", default=_D.port, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option("--database-url", envvar="PERFKIT_SERVER_DATABASE_URL",
              help="postgresql://… or sqlite:///FILE; default: an embedded PostgreSQL.")  # fmt: skip
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the embedded PostgreSQL; default: temporary, removed at the end.")  # fmt: skip
@click.option("--pool-size", default=_D.pool_size, show_default=True, type=click.IntRange(1, _MOST))
@click.option("--max-overflow", default=_D.max_overflow, show_default=True, type=click.IntRange(0, _MOST))
@click.option("--pool-timeout-s", default=_D.pool_timeout_s, show_default=True, type=Number(0.01, _LONGEST_S))
@click.option("--agent-cache/--no-agent-cache", default=_D.agent_cache, help="Keep agent states in memory.")
@click.option("--cache-max-age-s", default=_D.cache_max_age_s, show_default=True,
              type=Number(0, _LONGEST_S),
              help="Read again what a cache has kept so long; 0: never (several, replica: 1 s).")  # fmt: skip
@click.option("--llm-config-cache/--no-llm-config-cache", default=_D.llm_config_cache,
              help="Keep what a model's provider said of it.")  # fmt: skip
@click.option("--embedding-config-cache/--no-embedding-config-cache", default=_D.embedding_config_cache,
              help="Keep what an embedding's provider said of it.")  # fmt: skip
@click.option("--query-cache/--no-query-cache", default=_D.query_cache, help="Keep answers that list agents.")
@click.option("--one-by-one/--no-one-by-one", default=_D.one_by_one,
              help="Read the agents of a list one by one (an experiment).")  # fmt: skip
@click.option("--prefill-agents", default=_D.prefill_agents, show_default=True,
              type=click.IntRange(0, 10_000), help="Agents before the first request.")  # fmt: skip
@click.option("--prefill-messages", default=_D.prefill_messages, show_default=True,
              type=click.IntRange(0, 10**7), help="Messages of these agents.")  # fmt: skip
@click.option("--read-replica/--no-read-replica", default=_D.read_replica,
              help="Read from a second embedded PostgreSQL that follows the first.")  # fmt: skip
@click.option("--replica-url", envvar="PERFKIT_SERVER_REPLICA_URL",
              help="Read from this PostgreSQL, a replica of --database-url.")  # fmt: skip
@click.option("--replica-max-lag-ms", default=_D.replica_max_lag_ms, show_default=True,
              type=Number(1, 1000 * _LONGEST_S),
              help="Read from the primary while the replica is further behind.")  # fmt: skip
@click.option("--indexes/--no-indexes", default=_D.indexes, help="Indexes on passages and messages.")
@click.option("--blocking-ms", default=_D.blocking_ms, show_default=True, type=Number(0, 60_000),
              help="Block the event loop so long in every message (an experiment).")  # fmt: skip
@click.option("--leak-every", default=_D.leak_every, show_default=True, type=click.IntRange(0, 10**9),
              help="Leak one database connection every N messages (an experiment).")  # fmt: skip
@click.option("--database-delay-ms", default=_D.database_delay_ms, show_default=True, type=Number(0, 10_000),
              help="Delay what goes to PostgreSQL, and what comes from it (an experiment).")  # fmt: skip
@click.option("--statements-per-message", default=_D.statements_per_message, show_default=True,
              type=click.IntRange(0, 10_000), help="More of them, one by one (an experiment).")  # fmt: skip
@click.option("--hot-row-ms", default=_D.hot_row_ms, show_default=True, type=Number(0, 60_000),
              help="Lock the same row so long in every message (an experiment).")  # fmt: skip
@click.option("--timeout-every", default=_D.timeout_every, show_default=True, type=click.IntRange(0, 10**9),
              help="Let a statement time out every N messages (an experiment).")  # fmt: skip
@click.option("--kill-every", default=_D.kill_every, show_default=True, type=click.IntRange(0, 10**9),
              help="Let PostgreSQL end a session every N messages (an experiment).")  # fmt: skip
@click.option("--query-timeout-s", default=_D.query_timeout_s, show_default=True, type=Number(0, _LONGEST_S),
              help="Longest time of a statement in PostgreSQL, then 504; 0: any.")  # fmt: skip
@click.option("--model-timeout-s", default=_D.model_timeout_s, show_default=True, type=Number(0, _LONGEST_S),
              help="Longest wait for the model's next token, then 504; 0: any.")  # fmt: skip
@click.option("--tool-timeout-s", default=_D.tool_timeout_s, show_default=True, type=Number(0, _LONGEST_S),
              help="Longest time of a tool, then 504; 0: any.")  # fmt: skip
@click.option("--request-timeout-s", default=_D.request_timeout_s, show_default=True,
              type=Number(0, _LONGEST_S), help="Longest time of a request, then 504; 0: any.")  # fmt: skip
@click.option("--max-requests", default=_D.max_requests, show_default=True, type=click.IntRange(0, 10**6),
              help="At once; others get 503 with Retry-After; 0: any number.")  # fmt: skip
@click.option("--model-retries", default=_D.model_retries, show_default=True, type=click.IntRange(0, 20),
              help="How often a call of the model that failed is repeated.")  # fmt: skip
@click.option("--model-backoff-s", default=_D.model_backoff_s, show_default=True, type=Number(0, 3600),
              help="Longest pause before the first repetition; it doubles each time.")  # fmt: skip
@click.option("--model-backoff-max-s", default=_D.model_backoff_max_s, show_default=True,
              type=Number(0, 3600), help="Longest pause before any repetition.")  # fmt: skip
@click.option("--slow-query-ms", default=_D.slow_query_ms, show_default=True, type=Number(0, 60_000),
              help="Have a statement of every message take so long (an experiment).")  # fmt: skip
@click.option("--tool-hang-ms", default=_D.tool_hang_ms, show_default=True, type=Number(0, 600_000),
              help="Let the agent's tool hang so long (an experiment).")  # fmt: skip
@click.option("--model-failure-share", default=_D.model_failure_share, show_default=True, type=Number(0, 1),
              help="Share of the model's calls that it refuses (an experiment).")  # fmt: skip
@click.option("--leak-memory-mb", default=_D.leak_memory_mb, show_default=True, type=Number(0, 1_000),
              help="Keep so much memory of every message (an experiment).")  # fmt: skip
@click.option("--leak-files", default=_D.leak_files, show_default=True, type=click.IntRange(0, 1_000),
              help="Leave so many files open in every message (an experiment).")  # fmt: skip
@click.option("--leak-tasks", default=_D.leak_tasks, show_default=True, type=click.IntRange(0, 1_000),
              help="Leave so many tasks waiting in every message (an experiment).")  # fmt: skip
@click.option("--leak-threads", default=_D.leak_threads, show_default=True, type=click.IntRange(0, 100),
              help="Leave so many threads waiting in every message (an experiment).")  # fmt: skip
@click.option("--executor-ms", default=_D.executor_ms, show_default=True, type=Number(0, 60_000),
              help="Hold one of two threads so long in every message (an experiment).")  # fmt: skip
@click.option("--lock-ms", default=_D.lock_ms, show_default=True, type=Number(0, 60_000),
              help="Hold one lock so long in every message (an experiment).")  # fmt: skip
@click.option("--model-speed", default=_D.model_speed, show_default=True, type=Number(0, 1e6),
              help="Of the simulated model: 2 is twice as fast, 0 does not wait.")  # fmt: skip
@click.option("--seed", default=_D.seed, show_default=True, type=click.IntRange(0, 2**63 - 1))
@click.option("--password", envvar="PERFKIT_SERVER_PASSWORD", help="Accepted as a bearer token.")
@click.option(
    "--secure/--no-secure", default=_D.secure, help="Refuse requests without a key or the password."
)
@click.option(
    "--insecure-public/--no-insecure-public",
    default=_D.insecure_public,
    help="Listen to other machines without --secure: whoever reaches this one may use the server.",
)
@click.option("--instances", default=_D.instances, show_default=True, type=click.IntRange(1, 32),
              help="Server processes behind a round robin.")  # fmt: skip
@click.option("--workers", default=_D.workers, show_default=True, type=click.IntRange(0, 32),
              help="Processes for background work; the others then do none.")  # fmt: skip
@click.option("--role", default=_D.role, show_default=True, type=click.Choice(["all", "api", "worker"]),
              help="api: no background work (batches); worker: nothing else.")  # fmt: skip
@click.option(
    "--probes/--no-probes", default=_D.probes, help="Watch pool, event loop and requests; /metrics."
)
@click.option("--trace-memory/--no-trace-memory", default=_D.trace_memory,
              help="Name the lines whose objects grow; Python is 5 to 27 times slower.")  # fmt: skip
@click.option("--leak-after-s", default=_D.leak_after_s, show_default=True, type=Number(0.01, _LONGEST_S),
              help="A database connection out so long without a statement is leaked.")  # fmt: skip
@click.option("--hang-after-s", default=_D.hang_after_s, show_default=True, type=Number(0.05, _LONGEST_S),
              help="Report the event loop when it has been blocked for so long.")  # fmt: skip
@click.option("--hang-check-s", default=_D.hang_check_s, show_default=True, type=Number(0.05, _LONGEST_S))
@click.option("--scheduler-poll-s", default=_D.scheduler_poll_s, show_default=True,
              type=Number(0.01, _LONGEST_S), help="How often the leader looks for batches.")  # fmt: skip
@click.option("--scheduler-retry-s", default=_D.scheduler_retry_s, show_default=True,
              type=Number(0.05, _LONGEST_S), help="How often the others try to lead.")  # fmt: skip
@click.option("--scheduler-check-s", default=_D.scheduler_check_s, show_default=True,
              type=Number(0.05, _LONGEST_S), help="How often the leader makes sure it is one.")  # fmt: skip
@click.option("--scheduler-lease-s", default=_D.scheduler_lease_s, show_default=True,
              type=Number(0.1, _LONGEST_S), help="Leadership ends if unconfirmed this long.")  # fmt: skip
@click.option("--log-level", default=_D.log_level, show_default=True,
              type=click.Choice(["debug", "info", "warning", "error"]))  # fmt: skip
@click.option("--stop-with-parent", is_flag=True, help="End when standard input closes.")
@click.option("--parent-pid", type=int, hidden=True, help="End also when this is no longer the parent.")
def serve_command(stop_with_parent: bool, parent_pid: int | None, **options: Any) -> None:
    """Serve the reference agent server: Letta V1's API, a real database, a simulated model."""
    from agent_server.serving import CannotServe, serve

    try:
        serve(Settings(**options), stop_with_parent=stop_with_parent, parent_pid=parent_pid)
    except CannotServe as error:
        click.echo(f"perfkit serve: {error}", err=True)
        sys.exit(error.exit_code)
