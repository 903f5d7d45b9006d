"""The place where `muxctl status --watch` shows each status: the seam between what is asked and where it is put."""

import select
import sys
from collections.abc import Callable
from typing import Any

from muxctl.display.tables import plain
from muxctl.exit_codes import CommandFailed, ExitCode

# Returns the lines for a terminal of (width, height); None means no limit.
Compose = Callable[[int | None, int | None], list[str]]


class View:
    """The place where each status is shown; a context manager, since some views must clean up."""

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, value: dict[str, Any], compose: Compose) -> None:
        """Show a status, as `compose` puts it for people or as it came."""
        raise NotImplementedError

    def trouble(self, failure: CommandFailed) -> None:
        """Show that a request failed; a later one may succeed."""
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        """Wait until the next request is due.  Raises BrokenPipeError if nobody reads stdout any more."""
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if poll.poll(seconds * 1000):
            raise BrokenPipeError


def trouble_text(failure: CommandFailed) -> str:
    """Return the failure in words, with "muxd is not running" where that is why."""
    text = plain(failure.message)
    return text if text.startswith("muxd ") or failure.code != ExitCode.UNREACHABLE else f"muxd is not running: {text}"
