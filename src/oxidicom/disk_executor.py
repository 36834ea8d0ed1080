"""Runs blocking storage calls on separate threads, so that they do not block an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from oxidicom.backoff import Backoff
from oxidicom.thread_names import pool_thread_namer

FIRST_RETRY_S: Final = 0.1
GREATEST_RETRY_S: Final = 5.0
"""Seconds between attempts of a failing storage call: FIRST_RETRY_S after the first failure, then
doubled up to GREATEST_RETRY_S."""

P = ParamSpec("P")
R = TypeVar("R")


class DiskExecutor:
    """Threads for the storage calls of one component.

    The loop's default executor is not used: a name resolver that hangs must not delay storage
    calls, and storage that hangs must not occupy the resolver's threads. With one thread, calls
    keep their order. `name` prefixes the names of the threads; `sleep` takes seconds.
    """

    def __init__(
        self,
        name: str,
        threads: int = 1,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._threads = ThreadPoolExecutor(
            threads, thread_name_prefix=name, initializer=pool_thread_namer(name)
        )
        self._sleep = sleep

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `call` on one of the threads and return its result; raises what it raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    async def run_until_done(
        self,
        on_first_failure: Callable[[OSError], None],
        call: Callable[P, R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run `call`, repeat it without limit as long as it raises OSError, and return its result.

        Raises other exceptions of `call`. `on_first_failure` is called with the first OSError only.
        """
        backoff = Backoff(FIRST_RETRY_S, GREATEST_RETRY_S)
        while True:
            try:
                return await self.run(call, *args, **kwargs)
            except OSError as error:
                if not backoff:
                    on_first_failure(error)
            await self._sleep(backoff.failed())

    def close(self) -> None:
        """Cancel calls that have not begun; do not wait for those that have."""
        self._threads.shutdown(wait=False, cancel_futures=True)
