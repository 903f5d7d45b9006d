"""Requests that only read of an awake worker: they are no use that keeps it awake, and wake none."""

from .proxied_request import ProxiedRequest


class UnleasedRequest(ProxiedRequest):
    """Asks a worker beside its lease: it is not counted, does not wait, and is not tried again at another worker."""

    def _is_replayable(self) -> bool:
        return False

    def _let_go(self) -> None:
        self._drop_body()
