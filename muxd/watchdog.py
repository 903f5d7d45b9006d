"""The tasks of muxd and of its proxy that feed systemd's watchdog."""

import trio

from .notify import Notifier


async def feed_watchdog(notifier: Notifier) -> None:
    """Report to the watchdog until cancelled, from the loop that it is to find blocked; return where there is none."""
    if notifier.watchdog_interval is None:
        return
    while True:
        notifier.watchdog()
        await trio.sleep(notifier.watchdog_interval)
