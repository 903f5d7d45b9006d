"""Where one program is tried in one experiment, and what comes of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import CHAT, Answer, chat, exchange, post
from .kits import Kit
from .programs import Host, Program, Script, hosted


@dataclass(frozen=True, slots=True)
class Observation:
    """What a program did, in words with figures; `fault`: it has the fault that was looked for."""

    fault: bool
    text: str


@dataclass(frozen=True, slots=True)
class Lab:
    program: Program
    kit: Kit
    folder: Path

    def host(
        self, alpha: str = "", beta: str = "", *, flags: str = "", config: str = "", name: str = "host", **script: bool
    ) -> AbstractContextManager[Host]:
        """Two scripts: beta is awake.  `alpha`, `beta`: flags that their simulated servers have beside."""
        scripts = (
            Script(self.kit.alpha, self.kit.flags(alpha), **script),
            Script(self.kit.beta, self.kit.flags(beta)),
        )
        return hosted(self.program, self.kit, self.folder / name, scripts, flags.split(), config)

    def ask(self, host: Host, model: str, patience: float = 60, **fields: Any) -> Answer:
        return exchange(host.port, post(host.port, CHAT, chat(model, **fields)), patience)


@dataclass(frozen=True, slots=True)
class Experiment:
    """`number` is the one in the table; `real`: it can be made with real SGLang, too."""

    number: str
    fault: str
    run: Callable[[Lab], Observation]
    real: bool = False


def listed(answers: list[Answer]) -> str:
    return ", ".join(map(str, answers))
