"""Troubles that an experiment asks for: what each message leaks, or waits for, on purpose."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from agent_server.settings import Settings


class Troubles:
    """One per application; without an experiment it does nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._memory: list[bytes] = []
        self._files: list[IO[bytes]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="tools")
        self._end = threading.Event()
        self._lock = asyncio.Lock()

    async def provoke(self) -> None:
        """Do to one message what the settings ask for."""
        wanted = self._settings
        if wanted.leak_memory_mb:
            self._memory.append(b"\x01" * int(1e6 * wanted.leak_memory_mb))
        for _ in range(wanted.leak_files):
            self._files.append(open(os.devnull, "rb"))  # noqa: SIM115  nobody closes it
        for _ in range(wanted.leak_tasks):
            self._tasks.append(asyncio.create_task(_wait_for_nothing()))
        for _ in range(wanted.leak_threads):
            threading.Thread(target=_wait_in_thread, args=(self._end,), daemon=True).start()
        if wanted.executor_ms:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, _hold_thread, wanted.executor_ms / 1e3)
        if wanted.lock_ms:
            async with self._lock:
                await asyncio.sleep(wanted.lock_ms / 1e3)

    async def close(self) -> None:
        """Give back what was kept."""
        self._end.set()
        for file in self._files:
            file.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)


def _hold_thread(seconds: float) -> None:
    time.sleep(seconds)


def _wait_in_thread(end: threading.Event) -> None:
    end.wait()


async def _wait_for_nothing() -> None:
    await asyncio.Event().wait()
