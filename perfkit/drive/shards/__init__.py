"""Shards: processes that generate one run's load together, on this host or on many.

A coordinator (`coordinator.py`, in the process that runs `perfkit run`) and N shards (`shard.py`,
`python -m perfkit.drive.shards`) speak over one connection each. A launcher (`launchers.py`) only places
shards: it hands each an `Invitation`, and whatever becomes of that, a shard takes part only once the
coordinator has accepted its claim. The first claim of a shard wins, a second is refused and reported.

The connection is either inherited (a child's standard input and output, or those of `ssh`) or TCP. Both
sides prove that they know the run's secret (HMAC over two nonces); then every frame is encrypted and carries
a MAC and a counter (`channel.py`). JSON and Parquet only; a pickled setup state reaches our own children
alone, by the pipe they were born with.

    shard                       coordinator
    claim {run, shard, host, pid, python, perfkit}
                                refused {why} | welcome {shard}
    pong {t, clock}           < ping {t}: 50 times, then one a second (also the heartbeat)
                                context {} + JSON: workload, scenario as text with sha256, its data, state
    ready {sees_folder}
                                start {origin_ns, start_ns}: on the shard's own clock
    file {name, begin, at, size, sha256} + a chunk: segments, counts and journals that do not lie in the run's
                                folder; of a journal what was appended from byte `begin` on
                                kept {name}: it is there, whole; the shard removes its copy
                                stop {}
    outcome {} + JSON | failed {kind, why} | stuck {place} + JSON
                                pings: 50 more, then bye {}

Silence of 5 s, or the end of the connection, is a loss: the coordinator stops all the others, keeps what has
come, and the run is aborted; a shard that has lost its coordinator stops by itself.
"""
