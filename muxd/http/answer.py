"""Parser of one HTTP response, for clients of muxd's control socket."""

from httptools import HttpParserError, HttpResponseParser


class AnswerParser:
    """Parser of the one response on a connection; `feed` it the bytes that arrive."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self.status = 0  # 0 until the head is complete
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body that `data` contains; raise ValueError where `data` is not HTTP."""
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
        if self.status >= 200:  # a 1xx response only announces the final one
            self.complete = True
        else:
            self.status = 0
