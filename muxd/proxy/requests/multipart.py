"""Positions of the fields of a multipart/form-data body (RFC 7578), and changes of them.

Only the fields that are asked for are copied: the parts are found with bytes.find, in 25 MB in
about 2 ms.  A form that is not clear is refused: nothing is guessed.
"""

import re
from collections.abc import Iterator
from typing import NoReturn

from msgspec import Struct

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .splices import Splice

# The possessive *+ does not backtrack: with * a head of 16 KiB of spaces took half a second.
_QUOTED = rb"""\"([^"\\]*+(?:\\.[^"\\]*+)*+)\"[ \t]*+"""
_PARAMETER = re.compile(rb""";[ \t]*+([^\s=;"]++)[ \t]*+=[ \t]*+(?:%b|([^";]*+))(?=;|\Z)""" % _QUOTED, re.S)
_DISPOSITION = re.compile(rb"(?<=\r\n)content-disposition:[ \t]*form-data[ \t]*([^\r\n]*)", re.I)
_ESCAPE = re.compile(rb'\\(["\\])')  # other backslashes are kept: browsers send paths like C:\path
_BARE_END_OF_LINE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_PADDING = re.compile(rb"[ \t]*+\r\n")  # white space and end of line, which may follow a boundary

_LONGEST_BOUNDARY = 70  # RFC 2046, 5.1.1
_MOST_PARTS = 1000  # the limit of the worker (Starlette)
_LARGEST_HEAD = 16 << 10  # bytes of one part's head
_LARGEST_HEADS = 64 << 10  # bytes of all heads together: a thousand of the largest took 4 s


class FormPart(Struct, frozen=True):
    """One part of the body, from `first`, where its boundary line begins, to `last`, where the next one begins.

    Its content is from `start` to before `end`.
    """

    name: bytes
    is_file: bool
    first: int
    start: int
    end: int
    last: int


class FormBody(Struct, frozen=True):
    """A form, with the positions of its parts."""

    body: bytes
    boundary: bytes
    parts: tuple[FormPart, ...]

    def field(self, name: bytes) -> FormPart | None:
        """Return the last part of this name that is no file; None where there is none."""
        return next((part for part in reversed(self.parts) if part.name == name and not part.is_file), None)

    def value(self, name: bytes, most: int) -> bytes | None:
        """Return the content of the field of this name, at most its first `most` bytes; None where there is none."""
        part = self.field(name)
        return None if part is None else self.body[part.start : min(part.end, part.start + most)]

    def with_values(self, name: bytes, values: tuple[bytes, ...]) -> list[Splice]:
        """Return the splices that give the field these values: in its place where it is one value, else at the end."""
        part = self.field(name)
        if part is not None and len(values) == 1:
            return [Splice(part.start, part.end, values[0])]
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % (self.boundary, _quoted(name))
        at = self.parts[-1].last
        return [*self.without(name), Splice(at, at, b"".join(head + value + b"\r\n" for value in values))]

    def without(self, name: bytes) -> list[Splice]:
        """Return the splices that remove every part of this name."""
        return [Splice(part.first, part.last, b"") for part in self.parts if part.name == name]


def read_form(request: Request) -> FormBody:
    """Find the parts of the request's body; raise Refusal where the body is not a form."""
    body, boundary = request.body, _boundary(request.header(b"content-type") or b"")
    return FormBody(body, boundary, tuple(_parts(body, b"--" + boundary)))


def _boundary(content_type: bytes) -> bytes:
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        said = ascii(kind.decode("latin-1").strip()[:100])[1:-1] or "no Content-Type"
        raise Refusal(415, "invalid_content_type", f"this route takes multipart/form-data, not {said}")
    boundary = (_parameters(content_type[len(kind) :]) or {}).get(b"boundary")
    if not boundary:
        _refuse("its Content-Type names no boundary")
    if len(boundary) > _LONGEST_BOUNDARY or b"\r" in boundary or b"\n" in boundary:
        _refuse(f"its boundary must be at most {_LONGEST_BOUNDARY} characters of one line")
    return boundary


def _parts(body: bytes, delimiter: bytes) -> Iterator[FormPart]:
    """Yield the parts in their order; raise Refusal where the body is not a form."""
    first = 2 if body.startswith(b"\r\n" + delimiter) else 0
    if not body.startswith(delimiter, first):
        _refuse(f"it does not begin with its boundary {_printable(delimiter[2:])}")
    between, count, heads = b"\r\n" + delimiter, 0, 0
    while not body.startswith(b"--", at := first + len(delimiter)):
        count += 1
        if count > _MOST_PARTS:
            _refuse(f"it has more than {_MOST_PARTS} parts")
        line = _PADDING.match(body, at)
        if line is None:
            _refuse(f"after the boundary of part {count} there is no end of line")
        name, is_file, start = _head(body, line.end(), count)
        heads += start - line.end()
        if heads > _LARGEST_HEADS:
            _refuse(f"the heads of its parts have more than {_LARGEST_HEADS} bytes together")
        end = body.find(between, start)
        if end < 0:
            _refuse(f"part {count} has no end: the last boundary is missing")
        yield FormPart(name, is_file, first, start, end, end + 2)
        first = end + 2


def _head(body: bytes, at: int, number: int) -> tuple[bytes, bool, int]:
    """Return the name of the part whose head begins at `at`, whether it is a file, and where its content starts.

    Raise Refusal for a head that is not clear; `number` is the part's, counted from 1.
    """
    end = body.find(b"\r\n\r\n", at, at + _LARGEST_HEAD)
    found = _DISPOSITION.search(body, at, end) if end >= 0 else None
    if found is None:
        _refuse(f"part {number} has no Content-Disposition: form-data")
    if _BARE_END_OF_LINE.search(body, at, end):
        _refuse(f"the head of part {number} has a bare end of line")
    parameters = _parameters(found[1])
    if parameters is None:
        _refuse(f"the Content-Disposition of part {number} is not clear: {_printable(found[0][:200])}")
    name = parameters.get(b"name")
    if name is None:
        _refuse(f"part {number} has no name")
    return name, b"filename" in parameters or b"filename*" in parameters, end + 4


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Return the parameters of a header, names in lower case, of duplicates the last; None where they are not clear."""
    found, at, text = {}, 0, text.rstrip(b" \t;")
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        found[match[1].lower()] = match[3].strip() if match[2] is None else _ESCAPE.sub(rb"\1", match[2])
        at = match.end()
    return found


def _quoted(name: bytes) -> bytes:
    """Return the name with the escapes that browsers use in a quoted one."""
    return name.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")


def _printable(boundary: bytes) -> str:
    return ascii(boundary.decode("latin-1"))


def _refuse(problem: str) -> NoReturn:
    raise Refusal(400, "invalid_form", f"the body is not a form that can be read: {problem}")
