"""An event loop beside the test, so that asynchronous clients can be called as the others are."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")
DEADLINE_S = 20


class Loop:
    """An event loop in a thread of its own, for callers without one; a coroutine runs in a copy of its caller's context."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T]) -> T:
        async def finish() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(finish(), self.loop).result(DEADLINE_S)

    def close(self) -> None:
        """Ends what is under way first, as ``asyncio.run`` does: generators that were dropped are still to be closed by the loop."""
        self.run(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()

    async def _finish(self) -> None:
        await self.loop.shutdown_asyncgens()
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait_for(asyncio.gather(*rest, return_exceptions=True), DEADLINE_S)
