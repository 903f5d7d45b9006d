"""Parser of one HTTP response, for clients of muxd's control socket and of engines."""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser


class AnswerParser:
    """Parser of one response on a connection; `feed` it the bytes that arrive, and tell it their `end`."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._is_framed = False  # its head says how long the body is
        self.status = 0  # 0 until the head is complete
        self.complete = False
        self.keeps_alive = False  # once it is complete: whether another request may follow on the connection

    def feed(self, data: bytes | bytearray) -> bytes:
        """Return the bytes of the body that `data` contains; raise ValueError where `data` is not HTTP.

        What follows the response is nobody's, and ends the use of the connection.
        """
        self._parts = []
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise ValueError("another protocol was not asked for") from None
        except HttpParserError as error:
            if not self.complete:
                raise ValueError(str(error)) from None
            self.keeps_alive = False
        return b"".join(self._parts)

    def end(self) -> None:
        """Take the end of the connection, which completes a body of which the head does not say how long it is."""
        self.complete = self.complete or (self.status > 0 and not self._is_framed)

    def on_message_begin(self) -> None:
        self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._is_framed = self._is_framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self.complete:
            return
        if self.status >= 200:  # a 1xx response only announces the final one
            self.complete, self.keeps_alive = True, self._parser.should_keep_alive()
        else:
            self.status, self._is_framed = 0, False
