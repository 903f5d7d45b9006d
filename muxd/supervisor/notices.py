"""What operators should mend although a model serves, or so that it can: told once, and once more when it is over."""

import logging
from collections.abc import Callable, Mapping

from muxd.core.spec import group_of

log = logging.getLogger(__name__)


class Notices:
    """The notices of all workers, as last told; `record` takes events."""

    def __init__(self, record: Callable[..., None]) -> None:
        self._record = record
        self._told: dict[str, str] = {}  # by worker

    def look(self, current: Mapping[str, str]) -> None:
        """Tell what has changed since the last look; `current`: the notices by worker, "" where there is none."""
        for name, notice in current.items():
            before = self._told.get(name, "")
            if notice == before:
                continue
            worker = name if name != group_of(name) else None
            if notice:
                log.warning("%s: %s", name, notice)
                self._record("notice", model=group_of(name), worker=worker, notice=notice)
            else:
                log.info("%s: this is over: %s", name, before)
                self._record("notice", model=group_of(name), worker=worker, notice=before, over=True)
        self._told = {name: notice for name, notice in current.items() if notice}
