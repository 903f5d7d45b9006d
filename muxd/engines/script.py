"""SGLang as a launch script starts it: the script decides how, muxd does the rest.

It gets its environment and nothing else: no flag, and no admin key but one of its own.
"""

import os
import signal
from functools import partial
from typing import Any

from muxd.config import Model
from muxd.shim.processes import descendants, listening, look_up, process_table
from muxd.threads import in_thread

from .engine import Keys, Launch, LaunchPlan
from .link import EngineCallFailed, Link
from .sglang import ENVIRONMENT, SGLang


class LaunchedByScript(SGLang):
    """`pid` is the script's shell, or the server where the script ends with `exec`."""

    def __init__(self) -> None:
        super().__init__()
        self._port = 0
        self._sockets: frozenset[str] | None = None  # by which the server of this launch listens, once it is ready

    def launch(self, model: Model, plan: LaunchPlan) -> Launch:
        self._port, self._sockets = plan.port, None
        script = model.script
        assert script is not None
        return Launch(
            argv=script.argv,
            env={**ENVIRONMENT, **script.env, "TMPDIR": str(plan.tmpdir)},
            # With a real SGLang 0.5.23 below bash, without exec: SIGINT to bash alone is not heard before the server
            # ends, SIGTERM ends bash alone; SIGINT to both makes the server die of KeyboardInterrupt and, where bash
            # waits for a job, ends bash first.  SIGINT to the process that listens ends it cleanly in 0.5 s, and then
            # the script, in each of these.
            stop_signal=signal.SIGINT,
            stop_port=plan.port,
            keys=Keys(script.admin_key or script.api_key, script.api_key),
        )

    async def is_ready(self, link: Link) -> bool:
        ready = await super().is_ready(link)
        if ready and self._sockets is None:
            self._sockets = await self._listening()
        return ready

    async def is_alive(self, link: Link, model: Model) -> bool:
        """And is the one that was loaded: a script may start another, which comes to the GPU unasked, awake."""
        same = self._sockets is None or self._sockets & await self._listening()
        return bool(same) and await super().is_alive(link, model)

    async def _listening(self) -> frozenset[str]:
        """Others may listen on that port at other addresses: only that its own sockets are gone says something.

        In a thread: with thousands of connections the tables take tens of milliseconds to read.
        """
        return frozenset(await in_thread(partial(listening, self._port)))

    async def weights_of(self, link: Link, model: Model) -> str:
        """As the server tells: the name that clients use may be any."""
        path = _path_in(await link.ask("/model_info"))
        if path is None:
            raise EngineCallFailed("GET /model_info: no model_path in the answer")
        return path

    def processes_of(self, pid: int) -> list[int]:
        """A script may have put its server into a session of its own, or have left it to the shim, its own parent."""
        shell = look_up(pid)
        session = {process.pid for process in process_table().values() if process.session == pid}
        # Without its shim it has muxd for a parent, or init: what is below these is not its own.
        has_shim = shell is not None and shell.ppid not in (1, os.getpid())
        below = descendants(shell.ppid) if shell is not None and has_shim else []
        return sorted(session | {process.pid for process in below})


def _path_in(answer: Any) -> str | None:
    path = answer.get("model_path") if isinstance(answer, dict) else None
    return path if isinstance(path, str) and path else None
