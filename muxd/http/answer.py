"""The other side of a connection: reading one answer, for the control socket's client."""

from httptools import HttpParserError, HttpResponseParser


class AnswerParser:
    """One answer; `feed` it what arrives.  Raises ValueError for what is not HTTP."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self.status = 0  # 0 until the head is complete
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` brings."""
        self._parts = []
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise ValueError(str(error)) from None
        return b"".join(self._parts)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:  # 1xx only announces the answer
            self.complete = True
        else:
            self.status = 0
