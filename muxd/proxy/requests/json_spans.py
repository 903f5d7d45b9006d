"""Positions of the members of a JSON object in its text, so that one can be changed and the rest stays as it is.

The values are not decoded: a body of 64 MiB may have twenty million lists, which as Python objects
take 1.7 GB and four seconds; msgspec finds the end of a value in 0.2 s without memory.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from muxd.proxy.answers import Refusal

from .splices import Splice

_SPACE = b" \t\r\n"
_OPENING = re.compile(rb"[ \t\r\n]*+\{[ \t\r\n]*+(\}[ \t\r\n]*+)?")  # with the end of an empty object
_KEY = rb'"[^"\\\x00-\x1f]{0,256}+(?:\\.[^"\\\x00-\x1f]{0,256}+){0,128}+"'
# The values of most fields: this takes a third of the time that msgspec takes.
_PLAIN = rb'(?:"[^"\\\x00-\x1f]{0,64}+"|true|false|null|-?(?:0|[1-9][0-9]{0,9}+)(?:\.[0-9]{1,9}+)?+)(?=[,} \t\r\n])'
_MEMBER = re.compile(rb"(%b)[ \t\r\n]*+:[ \t\r\n]*+(%b)?" % (_KEY, _PLAIN))
_AFTER = re.compile(rb"[ \t\r\n]*+([,}])[ \t\r\n]*+")
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")')

_LONG = 8 << 10  # bytes; of 64 MiB of text msgspec finds the end in 20 ms, bytes.count takes 100 ms
_MOST_MEMBERS = 10_000
_LONGEST_KEY = 256  # bytes, with its quotes; with _MOST_MEMBERS this bounds the memory for one body to a few MB

_skip = msgspec.json.Decoder(msgspec.Raw).decode
_TRAILING = re.compile(r"trailing characters \(byte ([0-9]+)\)")  # msgspec counts bytes from 1
_STEP = 4096  # bytes of white space that are stripped at once

# The first bytes of bodies that are no JSON in UTF-8: a parser would only report an invalid character.
_SIGNS = {
    b"\x1f\x8b": "gzip, and no Content-Encoding says so",
    b"\x28\xb5\x2f\xfd": "zstd, and no Content-Encoding says so",
    b"\xff\xfe": "UTF-16: send it as UTF-8",
    b"\xfe\xff": "UTF-16: send it as UTF-8",
    b"{\0": "UTF-16: send it as UTF-8",
    b"\0": "UTF-16 or UTF-32: send it as UTF-8",
}


class JsonSpan(msgspec.Struct, frozen=True, gc=False):
    """A member: its key begins at `first`, its value at `start`; the value ends before `end`."""

    name: str
    first: int
    start: int
    end: int


def plain_model(body: bytes) -> tuple[int, int] | None:
    """Return where the value of "model" begins and ends in the body; None where only `members` can tell.

    Only an escape \\uXXXX can spell that key in another way: in a body without one, the only text
    that looks like the key is the key.  For 700 bytes this takes 2 us, and a whole edit by `members`
    10 us; for a long body this takes longer than `members`.
    """
    if len(body) > _LONG or body.count(b'"model"') != 1 or b"\\u" in body:
        return None
    value = _MODEL.search(body)
    return None if value is None else value.span(1)


def members(body: bytes) -> Iterator[JsonSpan]:
    """Yield the top-level members of a body that is a JSON object, in their order, with duplicates; raise Refusal.

    Only after the last member was yielded is all of the body known to be JSON.
    """
    opening = _OPENING.match(body)
    if opening is None:
        raise _unreadable(body)
    at, more, count = opening.end(), opening[1] is None, 0
    while more:
        count += 1
        if count > _MOST_MEMBERS:
            raise _too_costly(f"it has more than {_MOST_MEMBERS} top-level fields")
        member, at = _member(body, at)
        yield member
        after = _AFTER.match(body, at)
        if after is None:
            raise _unreadable(body)
        at, more = after.end(), after[1] == b","
    if at != len(body):
        raise _unreadable(body)


def _member(body: bytes, at: int) -> tuple[JsonSpan, int]:
    """Return the member whose key begins at `at`, and a position after its value, with only white space between."""
    found = _MEMBER.match(body, at)
    if found is None or found.end(1) - at > _LONGEST_KEY:
        raise _unreadable(body)
    start, end = found.span(2)
    if end >= 0:
        return JsonSpan(_key_name(found[1]), at, start, end), end
    start = found.end()
    after = _start_of_rest(body, start)
    return JsonSpan(_key_name(found[1]), at, start, _strip_space(body, after)), after


def _key_name(key: bytes) -> str:
    """Return the name that a key, given with its quotes, stands for."""
    try:
        return msgspec.json.decode(key, type=str) if b"\\" in key else key[1:-1].decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(str(error)) from None


def _start_of_rest(body: bytes, start: int) -> int:
    """Return where the text after the value at `start`, and after white space, begins.

    msgspec tells the position, as it raises for a text that has more than one value.  Raise Refusal where the value is
    no JSON, or nothing follows it.
    """
    try:
        _skip(memoryview(body)[start:])
    except msgspec.DecodeError as error:
        trailing = _TRAILING.search(str(error))
        if trailing is not None:
            return start + int(trailing[1]) - 1
    except RecursionError:
        pass
    raise _unreadable(body)


def _strip_space(body: bytes, end: int) -> int:
    """Return `end` without the white space before it; some other character has to come before."""
    while body[end - 1] in _SPACE:
        last = body[max(0, end - _STEP) : end]
        end -= len(last) - len(last.rstrip(_SPACE))
    return end


def _unreadable(body: bytes) -> Refusal:
    """Return the refusal of a body whose members cannot be found, with the reason."""
    if not body or body.isspace():
        return _not_json("it is empty")
    if sign := next((sign for sign in _SIGNS if body.startswith(sign)), None):
        return _not_json(f"it is {_SIGNS[sign]}")
    try:
        _skip(body)
    except RecursionError:
        return Refusal(400, "invalid_json", "the body is nested too deeply")
    except msgspec.DecodeError as error:
        return _not_json(str(error))
    if _OPENING.match(body) is None:
        return no_model()
    return _too_costly(f"a top-level field's name is longer than {_LONGEST_KEY} bytes")


def _not_json(problem: str) -> Refusal:
    return Refusal(400, "invalid_json", f"the body is not JSON: {problem}")


def _too_costly(problem: str) -> Refusal:
    return Refusal(400, "invalid_json", f"the body takes too much to read: {problem}")


def no_model() -> Refusal:
    problem = 'the body must be a JSON object with a string "model": GET /v1/models lists them'
    return Refusal(400, "invalid_model", problem, param="model")


def replaced(spans: Sequence[JsonSpan], new: Mapping[str, bytes]) -> list[Splice]:
    """Return the splices that give members the values in `new`; of duplicates the last is changed, as it counts."""
    last = {member.name: member for member in spans if member.name in new}
    return [Splice(member.start, member.end, new[name]) for name, member in last.items()]


def removed(spans: Sequence[JsonSpan], gone: Container[str]) -> list[Splice]:
    """Return the splices that remove the members named in `gone`.

    Each goes with the comma before it, or with the comma after it where no member before it stays.
    """
    splices, kept = [], False
    for index, member in enumerate(spans):
        if member.name not in gone:
            kept = True
        elif kept:
            splices.append(Splice(spans[index - 1].end, member.end, b""))
        else:
            end = spans[index + 1].first if index + 1 < len(spans) else member.end
            splices.append(Splice(member.first, end, b""))
    return splices
