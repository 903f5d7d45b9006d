"""The session of one proxy at the control socket: its version checked, its lines in, muxd's messages out."""

import logging

import msgspec
import trio

from muxd.control.service import ControlService, Session
from muxd.errors import BadRequest, MuxdError, ProtocolMismatch
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.protocol import LONGEST_LINE, UPGRADE, VERSION, VERSION_HEADER, ProxyMessage, ToldError
from muxd.reading_clock import read_all

log = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(ProxyMessage)
_encoder = msgspec.json.Encoder()


async def serve_session(service: ControlService, request: Request, exchange: ResponseWriter) -> None:
    """Hold a session until either side closes the connection, and end its leases then.

    Raises BadRequest for a request that asks for no session, and ProtocolMismatch.
    """
    if request.method != "GET" or (request.header(b"upgrade") or b"").lower() != UPGRADE:
        raise BadRequest(f"{request.path} takes GET with `Connection: upgrade` and `Upgrade: {UPGRADE.decode()}`")
    check_version(request.header(VERSION_HEADER))
    await exchange.switch_protocol(UPGRADE, [(VERSION_HEADER, b"%d" % VERSION)])
    session = service.open_session()
    try:
        async with trio.open_nursery() as nursery:
            # Each in a task of its own: a line would else wake one coroutine after the other from the connection's.
            nursery.start_soon(_send_messages, exchange, session, nursery.cancel_scope)
            nursery.start_soon(_take_lines, exchange, session, nursery.cancel_scope)
    finally:
        session.close()


def check_version(told: bytes | None) -> None:
    """Raise ProtocolMismatch unless the proxy's version of the protocol is this muxd's own."""
    if told == b"%d" % VERSION:
        return
    is_newer = told is not None and told.isdigit() and len(told) < 10 and int(told) > VERSION
    said = told.decode("ascii", "replace") if told else "none"
    what = f"the proxy speaks version {said} of the session's protocol, and this muxd version {VERSION}"
    older = "muxd is the older one: restart it" if is_newer else "the proxy is the older one: restart it"
    error = ProtocolMismatch(f"{what}; {older}", proxy=said, muxd=VERSION)
    log.warning("a proxy was refused: %s", error.message)
    raise error


async def _send_messages(exchange: ResponseWriter, session: Session, scope: trio.CancelScope) -> None:
    while messages := await session.messages():
        await exchange.write(_encoder.encode_lines(messages))
    scope.cancel()


async def _take_lines(exchange: ResponseWriter, session: Session, scope: trio.CancelScope) -> None:
    """Hand each line of the proxy to the session, until the proxy closes or says what is none of the protocol."""
    lines = _SessionLines(session)
    try:
        if exchange.early:
            lines.take(await exchange.receive())
        await read_all(exchange.peer.fileno(), lines.take)
    except (MuxdError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(session, error)
    else:
        scope.cancel()


class _SessionLines:
    """The lines of one proxy, as they come."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rest = b""  # of a line that has not come whole

    def take(self, data: bytes) -> bool:
        """Hand each line that is whole to the session; return whether all is done, as `Session.take` does."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        is_done = True
        for line in lines:
            is_done = self._session.take(_decoder.decode(line)) and is_done
        if len(self._rest) > LONGEST_LINE:
            raise BadRequest(f"a line of a session has at most {LONGEST_LINE} bytes")
        return is_done


def _refuse(session: Session, error: Exception) -> None:
    """Let the session end, and tell the proxy why, behind all that it is told already."""
    refusal = error if isinstance(error, MuxdError) else BadRequest(f"the line is no message of a session: {error}")
    log.warning("a proxy's session is ended: %s", refusal.message)
    session.refuse(ToldError(refusal.code, refusal.message, refusal.retryable, refusal.details))
