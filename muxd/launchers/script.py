"""A launch script starts the server, and decides how: it gets its environment and nothing else, no flag and no key."""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from muxd.children import ANY_PORT
from muxd.config.devices import ORDER
from muxd.config.model_schema import Model, Script
from muxd.engines.engine import Engine, LaunchContext, LaunchSpec, ServerKeys


class ScriptLauncher:
    """Starts the model's launch script; its main process is the script's shell, or the server after `exec`."""

    def launch(self, model: Model, engine: Engine, context: LaunchContext) -> LaunchSpec:
        script = model.script
        assert script is not None
        return LaunchSpec(
            argv=script.argv,
            env={**engine.environment, ORDER: "PCI_BUS_ID", **script.env, "TMPDIR": str(context.tmpdir)},
            # With a real SGLang 0.5.23 below bash, without exec: SIGINT to bash alone is not heard before the server
            # ends, SIGTERM ends bash alone; SIGINT to both makes the server die of KeyboardInterrupt and, where bash
            # waits for a job, ends bash first.  SIGINT to the process that listens ends it cleanly in 0.5 s, and then
            # the script, in each of these.
            stop_signal=engine.stop_signal,
            stop_port=context.port or ANY_PORT,
            keys=ServerKeys("", ""),
        )


def changed(script: Script) -> str:
    """Return the file whose text is another now than when it was read; "" where there is none, or it is gone."""
    for path, digest in script.digests.items():
        with suppress(OSError):
            if os.path.isfile(path) and sha256(Path(path).read_bytes()).hexdigest() != digest:
                return path
    return ""
