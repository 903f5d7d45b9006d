"""What survives muxd: the state file.

It names every child, so that the next muxd can find and sweep what this one left, and
the engine call that is under way at each worker, written before the call is sent.  It
is replaced whole and atomically.  It is not synced to disk: a power cut that loses it
has ended the processes it names, which the boot id tells.
"""

import logging
from pathlib import Path

import msgspec

from .children import ChildRecord
from .errors import in_words
from .own_files import UNREADABLE, put_aside, read, write

log = logging.getLogger(__name__)


class WorkerRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One worker's processes and what is known of its engine."""

    child: ChildRecord
    workdir: str
    tmpdir: str
    port: int
    admin_key: str
    call: str | None = None  # sent and not answered: in doubt
    asleep: bool = False
    leftovers: list[str] = []  # files outside its work folder


class SavedState(msgspec.Struct, kw_only=True):
    version: int = 1
    workers: dict[str, WorkerRecord] = {}
    proxy: ChildRecord | None = None
    stopped: list[str] = []  # models that an operator stopped: they stay down


class StateFile:
    """The state in memory and on disk; call `save` after each change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = SavedState()

    def load(self) -> SavedState:
        """What an earlier muxd left; an empty state where there is none.

        One that cannot be read (a power cut can do that) is put aside: the children it
        named are found by their lock files too, and by the tokens in their environment.
        """
        try:
            self.state = msgspec.json.decode(read(self.path), type=SavedState)
        except FileNotFoundError:
            self.state = SavedState()
        except UNREADABLE as error:
            put_aside(self.path, error)
            self.state = SavedState()
        return self.state

    def save(self) -> None:
        """What cannot be written is logged and kept in memory: a full disk must not end what runs."""
        try:
            write(self.path, msgspec.json.encode(self.state))
        except OSError as error:
            log.error(
                "cannot write the state file %s: %s; should muxd die now, it would not be up to date",
                self.path,
                in_words(error),
            )
