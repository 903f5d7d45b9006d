"""When muxd looks after what nobody tells it: those who wait here wake together, which costs a fraction."""

import trio


async def next_tick(interval: float) -> None:
    """Sleep to the next multiple of `interval` seconds on trio's clock."""
    await trio.sleep_until((trio.current_time() // interval + 1) * interval)
