"""Losing a worker at a chosen moment, and what a client then has."""

import os
import re
import signal

from .muxd import Muxd, eventually


class Loss:
    """A worker whose scheduler does not answer, and then is killed; and what was replayed since."""

    def __init__(self, muxd: Muxd, served: str, model: str | None = None) -> None:
        """`model`: what muxd calls it, where that is another name than the one it is asked by."""
        muxd.ask(served)
        self._muxd = muxd
        self._model = model or served
        self._scheduler = muxd.worker(self._model)["scheduler"]
        self._before = self._count()

    def stop(self) -> None:
        """Once nothing is in flight: who then is, is with a worker that does not answer."""
        eventually(lambda: self._muxd.status(self._model)["in_flight"] == 0, "nothing is in flight")
        os.kill(self._scheduler, signal.SIGSTOP)

    def kill(self) -> None:
        os.kill(self._scheduler, signal.SIGKILL)

    def _count(self) -> float:
        lines = (line.split() for line in self._muxd.get("/metrics").text.splitlines())
        return sum(float(words[1]) for words in lines if words[0] == f'muxd_replays_total{{model="{self._model}"}}')

    @property
    def replays(self) -> float:
        return self._count() - self._before


def said(stream: str) -> str:
    """The text of a stream of any route; of /generate, whose events each have all the text so far, the last one's."""
    told = re.findall(r'"(?:text|content)":"((?:[^"\\]|\\.)*)"', stream)
    return str(told[-1]) if "output_ids" in stream else "".join(told)
