"""SGLang as a launch script starts it: the script decides how, muxd does the rest.

It gets its environment and nothing else: no flag, and no admin key but one of its own.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from muxd.config import Model
from muxd.config.devices import ORDER
from muxd.config.schema import Script
from muxd.shim.processes import descendants, look_up, process_table

from .causes import Cause
from .engine import Keys, Launch, LaunchPlan
from .link import EngineCallFailed, Link
from .sglang import ENVIRONMENT, SGLang


class LaunchedByScript(SGLang):
    """`pid` is the script's shell, or the server where the script ends with `exec`."""

    def launch(self, model: Model, plan: LaunchPlan) -> Launch:
        script = model.script
        assert script is not None
        return Launch(
            argv=script.argv,
            env={**ENVIRONMENT, ORDER: "PCI_BUS_ID", **script.env, "TMPDIR": str(plan.tmpdir)},
            # With a real SGLang 0.5.23 below bash, without exec: SIGINT to bash alone is not heard before the server
            # ends, SIGTERM ends bash alone; SIGINT to both makes the server die of KeyboardInterrupt and, where bash
            # waits for a job, ends bash first.  SIGINT to the process that listens ends it cleanly in 0.5 s, and then
            # the script, in each of these.
            stop_signal=signal.SIGINT,
            stop_port=plan.port,
            keys=Keys(script.admin_key or script.api_key, script.api_key),
        )

    async def unlock(self, link: Link, command_lines: Sequence[Sequence[str]]) -> Cause | None:
        """The script may have given it keys that muxd could not read there: its own words have them."""
        for words in command_lines:
            api, admin = _value_of("--api-key", words), _value_of("--admin-api-key", words)
            if api or admin:
                link.use(admin or api, api)
                break
        try:
            await link.ask("/v1/loads")
        except EngineCallFailed as error:
            return error.cause
        return None

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


def changed(script: Script) -> str:
    """The file of which another text was read than there is now; "" where there is none, and where it is gone."""
    for path, digest in script.digests.items():
        with suppress(OSError):
            if os.path.isfile(path) and sha256(Path(path).read_bytes()).hexdigest() != digest:
                return path
    return ""


def _value_of(flag: str, words: Sequence[str]) -> str:
    for word, following in pairwise([*words, ""]):
        name, has_value, value = word.partition("=")
        if name == flag:
            return value if has_value else following
    return ""


def _path_in(answer: Any) -> str | None:
    path = answer.get("model_path") if isinstance(answer, dict) else None
    return path if isinstance(path, str) and path else None
