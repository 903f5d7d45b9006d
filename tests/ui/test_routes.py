"""What becomes of a request at which the console itself fails."""

from types import SimpleNamespace
from typing import Any

import pytest

from muxd.client import ControlClient
from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.http.response_writer import ClientGone
from muxd.ui.live_feed import LiveFeed
from muxd.ui.routes import ConsoleRoutes


class Failing:
    """Rules of access that raise."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def viewer(self, request: Request) -> Any:
        raise self._error


def routes(error: Exception) -> ConsoleRoutes:
    control = ControlClient([])
    return ConsoleRoutes(control, Failing(error), LiveFeed(control), lambda: "")  # type: ignore[arg-type]


async def answer(error: Exception) -> None:
    request = Request("GET", b"/ui/", [], b"", "1.1", True)
    await routes(error).answer(request, SimpleNamespace(lines=b""))  # type: ignore[arg-type]


async def test_a_fault_of_its_own_costs_one_request_and_is_logged(caplog):
    for error in (ZeroDivisionError("none"), ExceptionGroup("two", [ClientGone(), KeyError("x")])):
        with pytest.raises(MuxdError, match="muxctl logs ui") as raised:
            await answer(error)
        assert raised.value.status == 500
    assert "a fault of the console at GET /ui/" in caplog.text
    assert "ZeroDivisionError: none" in caplog.text


@pytest.mark.parametrize("error", [ClientGone(), ExceptionGroup("one", [ClientGone()]), MuxdError("refused")])
async def test_what_a_handler_may_raise_is_no_fault(error, caplog):
    with pytest.raises(type(error)) as raised:
        await answer(error)
    assert raised.value is error
    assert not caplog.records
