"""Speech to text by multipart/form-data, in the shapes of SGLang 0.5.23.

The shapes were read in SGLang's source, not recorded: no model that it runs on a CPU here hears anything.  The text
of an answer depends on a hash of the file's bytes.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import ceil
from typing import Any
from uuid import uuid4

import msgspec

from muxd.http.request import Request

from .replies import Event, ReplyForm
from .routes import EngineRefusal, bad_request
from .saying import Choice
from .text_request import TextRequest, read

_FORMATS = ("json", "text", "verbose_json")
_RATE = 32_000  # bytes per second of audio: 16 kHz, 16 bits


def read_transcription(request: Request, longest: int) -> tuple[TextRequest, str, bytes]:
    """Return the request, the format of the answer, and the audio; raise EngineRefusal."""
    fields, audio = _form(request)
    form = fields.get("response_format", "json")
    if form not in _FORMATS:
        problem = "Only 'json', 'text', and 'verbose_json' formats supported"
        raise EngineRefusal(400, {"error": {"message": problem}})
    heard = blake2b(audio, digest_size=8).hexdigest()
    body: dict[str, Any] = {"model": fields.get("model", "default"), "temperature": 0}
    body |= {"language": fields.get("language"), "stream": fields.get("stream", "").lower() in ("true", "1")}
    return read(body, (heard,), longest), form, audio


class TranscriptionForm(ReplyForm):
    """The form of /v1/audio/transcriptions."""

    end = b"data: [DONE]\n\n"

    def __init__(self, text_request: TextRequest, form: str, audio: bytes) -> None:
        self.text_request = text_request
        self._form = form
        self._seconds = len(audio) / _RATE
        self._id = f"trsc-{uuid4().hex}"

    def complete(self, choices: Sequence[Choice]) -> Event | str:
        text = choices[0].text()
        if self._form == "text":
            return text
        usage = {"type": "duration", "seconds": ceil(self._seconds)}
        if self._form == "json":
            return {"text": text, "usage": usage}
        head = {
            "task": "transcribe",
            "language": self.text_request.body["language"],
            "duration": round(self._seconds, 2),
        }
        return {**head, "text": text, "segments": [], "usage": usage}

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        yield self._chunk(choice.text(first, last), None)

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        yield self._chunk(None, choices[0].finish)

    def encode(self, event: Event) -> bytes:
        return b"data: " + msgspec.json.encode(event) + b"\n\n"

    def _chunk(self, text: str | None, finish: str | None) -> Event:
        delta = {"role": None, "content": text, "reasoning_content": None, "tool_calls": None}
        head = {"id": self._id, "object": "transcription.chunk", "created": self.text_request.created}
        choice = {"delta": delta, "finish_reason": finish}
        return {**head, "model": self.text_request.model, "choices": [choice], "usage": None}


def _form(request: Request) -> tuple[dict[str, str], bytes]:
    """Return the fields of the multipart form, and its file; raise EngineRefusal."""
    from email.parser import BytesParser  # which few requests need
    from email.policy import HTTP

    head = b"Content-Type: " + (request.header(b"content-type") or b"") + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + request.body)
    fields: dict[str, str] = {}
    audio: bytes | None = None
    for part in message.iter_parts() if message.is_multipart() else ():
        name, content = str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)
        if part.get_filename() is None:
            fields[name] = bytes(content or b"").decode(errors="replace")
        elif name == "file":
            audio = bytes(content or b"")
    if audio is None:
        problem = "{'type': 'missing', 'loc': ('body', 'file'), 'msg': 'Field required', 'input': None}"
        raise bad_request(f"1 validation error:\n  {problem}\n\n    POST {request.path}", "Bad Request")
    return fields, audio
