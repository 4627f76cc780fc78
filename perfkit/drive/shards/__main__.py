"""`python -m perfkit.drive.shards`: a shard that reads its invitation from standard input."""

from perfkit.drive.shards.boot import main

main()
