"""When somebody who waits is told again how it goes."""

from muxd.core.progress import Progress

#: Seconds after which unchanged progress is told again, so that whoever waits knows that muxd lives.
REPEAT = 5.0


class ProgressPace:
    """What one who waits was last told, and when."""

    __slots__ = ("_at", "_told")

    def __init__(self) -> None:
        self._told: tuple[object, ...] | None = None
        self._at = 0.0

    def is_due(self, progress: Progress, now: float) -> bool:
        """Say whether `progress` is to be told, and remember it as told.

        It is where the phase, the victims or the replicas have changed, or where the last was told REPEAT seconds ago.
        """
        seen = (progress.phase, progress.victims, progress.scaling)
        if seen == self._told and now < self._at + REPEAT:
            return False
        self._told, self._at = seen, now
        return True
