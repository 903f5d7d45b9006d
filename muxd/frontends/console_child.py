"""The console as a child of muxd, where `[ui] listen` is set: started again when it ends, and never in muxd's way.

Nothing depends on it: no port is kept for it, and what a killed muxd left of it is ended at the next start.
"""

import logging
import sys
from pathlib import Path

import trio

from muxd.children import Child, Children, ChildSpec, own_environment
from muxd.config import Config
from muxd.config.proxy_settings import write_for_proxy
from muxd.errors import MuxdError, in_words
from muxd.log_names import log_files
from muxd.own_files import make_way

log = logging.getLogger(__name__)

#: Seconds until a console that has ended is started again: 1, 2, 4 ... 60, and 1 again after it has lived so long.
BACKOFF_CAP, STABLE_AFTER = 60.0, 30.0

#: Seconds from a stop until its shim kills it, and until muxd waits for it no longer.
STOP_TIMEOUT, ENDED_WITHIN = 2.0, 5.0


def console_log_files(config: Config) -> dict[str, Path]:
    """Return where the console's output goes, under "stdout" and "stderr"."""
    return log_files(config.daemon.log_dir, "muxd-ui")


class ConsoleChild:
    """The console, kept running."""

    def __init__(self, config: Config, children: Children) -> None:
        self._config = config
        self._children = children
        self._child: Child | None = None
        self._stopping = False

    async def run(self) -> None:
        """Keep it running until `stop`; never raises."""
        pause = 1.0
        while not self._stopping:
            began = trio.current_time()
            await self._run_once()
            if self._stopping:
                return
            pause = 1.0 if trio.current_time() - began >= STABLE_AFTER else pause
            await trio.sleep(pause)
            pause = min(pause * 2, BACKOFF_CAP)

    async def _run_once(self) -> None:
        try:
            self._child = self._children.spawn(self._spec())
        except (OSError, MuxdError) as error:
            log.error("cannot start the console: %s", in_words(error))
            return
        exit = await self._child.wait()
        self._child = None
        if not self._stopping:
            log.error("the console %s: starting it again; its log: %s", exit, console_log_files(self._config)["stderr"])

    def stop(self) -> None:
        """End it; its viewers come back to the next one by themselves."""
        self._stopping = True
        if self._child is not None:
            self._child.stop()

    async def ended(self) -> None:
        """Wait, after `stop`, until no process of it is left, but no longer than ENDED_WITHIN."""
        if (child := self._child) is not None:
            with trio.move_on_after(ENDED_WITHIN):
                await child.wait()

    def _spec(self) -> ChildSpec:
        settings = self._config.daemon.state_dir / "ui.toml"
        make_way(settings)
        write_for_proxy(self._config, settings)
        files = console_log_files(self._config)
        return ChildSpec(
            name="muxd-ui",
            argv=(sys.executable, "-m", "muxd", "ui", "--config", str(settings)),
            env=own_environment(),
            cwd=Path("/"),
            stdout=files["stdout"],
            stderr=files["stderr"],
            log_max_bytes=4 << 20,
            log_backups=1,
            stop_timeout=STOP_TIMEOUT,
        )
