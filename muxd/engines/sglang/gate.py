"""SGLang's gate (--gated-launch-port), as 0.5.23 has it in srt/distributed/gated_launch.py.

Its scheduler listens there once all modules are imported and the ranks have found each other, and goes on within a
second after the call: it looks once a second.  Before that it has taken no GPU memory but that of a CUDA context.  The
gate asks for no key, and anybody on this host may open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxd.engines.engine_client import EngineClient

#: The flag, which an SGLang without a gate refuses.
GATE_FLAG = "--gated-launch-port"

#: Where versions with a gate name it: the declaration of their flags.
_DECLARATIONS = ("srt/arg_groups/fields/parallel.py", "srt/server_args.py")


class SGLangGate:
    def flags(self, port: int) -> Sequence[str]:
        return [GATE_FLAG, str(port)]

    async def is_reached(self, link: EngineClient) -> bool:
        return await link.probe("/health") == 200

    async def open(self, link: EngineClient) -> None:
        await link.call("activate", "/gate/activate", {})


def has_gate(folder: Path) -> bool:
    """Say whether the SGLang whose package is in this folder has a gate; True where that cannot be read."""
    found = [path for path in (folder / name for name in _DECLARATIONS) if path.is_file()]
    try:
        return not found or any("gated_launch_port" in path.read_text() for path in found)
    except (OSError, UnicodeDecodeError):
        return True
