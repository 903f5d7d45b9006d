"""Requests that only read from an awake worker: they neither wake a model nor keep one awake."""

from .proxied_request import ProxiedRequest


class UnleasedRequest(ProxiedRequest, eq=False):
    """A request that is sent to a worker without a lease: it is not counted, does not wait, and is not replayed."""

    takes_whole: bool = False  # `on_whole` gives its place back

    def _is_replayable(self) -> bool:
        return False

    def _let_go(self) -> None:
        if self.flow is not None:
            self.flow.settle()
        self._drop_body()
