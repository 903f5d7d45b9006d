"""Common times for muxd's periodic checks: tasks that wake together cost a fraction of tasks that wake apart."""

import trio


async def next_tick(interval: float) -> None:
    """Sleep to the next multiple of `interval` seconds on trio's clock."""
    await trio.sleep_until((trio.current_time() // interval + 1) * interval)
