"""Where the members of a JSON object lie in its text, so that one can be changed and all else left as it is.

Nothing is built of what they hold: in a body of 64 MiB there may be twenty million lists, which as
objects take 1.7 GB and four seconds; msgspec finds the end of them in 0.2 s and no memory.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from muxd.proxy.answers import Refusal

from .splices import Splice

_SPACE = b" \t\r\n"
_OPENING = re.compile(rb"[ \t\r\n]*+\{[ \t\r\n]*+(\}[ \t\r\n]*+)?")  # with the end of an object of nothing
_KEY = rb'"[^"\\\x00-\x1f]{0,256}+(?:\\.[^"\\\x00-\x1f]{0,256}+){0,128}+"'
# What most fields hold: seen in a third of the time that msgspec takes.
_PLAIN = rb'(?:"[^"\\\x00-\x1f]{0,64}+"|true|false|null|-?(?:0|[1-9][0-9]{0,9}+)(?:\.[0-9]{1,9}+)?+)(?=[,} \t\r\n])'
_MEMBER = re.compile(rb"(%b)[ \t\r\n]*+:[ \t\r\n]*+(%b)?" % (_KEY, _PLAIN))
_AFTER = re.compile(rb"[ \t\r\n]*+([,}])[ \t\r\n]*+")
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")')

_LONG = 8 << 10  # bytes; msgspec passes over a text of 64 MiB in 20 ms, bytes.count needs 100
_MOST_MEMBERS = 10_000
_LONGEST_KEY = 256  # bytes, with its quotes; together they bound what a body makes here to a few MB

_skip = msgspec.json.Decoder(msgspec.Raw).decode
_TRAILING = re.compile(r"trailing characters \(byte ([0-9]+)\)")  # bytes count from 1
_STEP = 4096  # bytes of space that are looked at together

# How bodies begin that are something else, which a parser would only call an invalid character.
_SIGNS = {
    b"\x1f\x8b": "gzip, and no Content-Encoding says so",
    b"\x28\xb5\x2f\xfd": "zstd, and no Content-Encoding says so",
    b"\xff\xfe": "UTF-16: send it as UTF-8",
    b"\xfe\xff": "UTF-16: send it as UTF-8",
    b"{\0": "UTF-16: send it as UTF-8",
    b"\0": "UTF-16 or UTF-32: send it as UTF-8",
}


class JsonSpan(msgspec.Struct, frozen=True, gc=False):
    """Its key begins at `first`, its value at `start`; the value ends before `end`."""

    name: str
    first: int
    start: int
    end: int


def plain_model(body: bytes) -> tuple[int, int] | None:
    """From where to where the model's name lies in a body that names one; None where it takes `members` to tell.

    Only an escape \\uXXXX could write that key in another way: without one in the body, what looks
    like the key once is the key.  It takes 2 us of 700 bytes, all of an edit by `members` 10; of a
    long body more than `members`.
    """
    if len(body) > _LONG or body.count(b'"model"') != 1 or b"\\u" in body:
        return None
    value = _MODEL.search(body)
    return None if value is None else value.span(1)


def members(body: bytes) -> Iterator[JsonSpan]:
    """The top-level members of a body that is a JSON object, in their order, duplicates too; raises Refusal.

    Only after the last of them is it known that all of the body is JSON.
    """
    opening = _OPENING.match(body)
    if opening is None:
        raise _wrong(body)
    at, more, count = opening.end(), opening[1] is None, 0
    while more:
        count += 1
        if count > _MOST_MEMBERS:
            raise _costly(f"it has more than {_MOST_MEMBERS} top-level fields")
        member, at = _member(body, at)
        yield member
        after = _AFTER.match(body, at)
        if after is None:
            raise _wrong(body)
        at, more = after.end(), after[1] == b","
    if at != len(body):
        raise _wrong(body)


def _member(body: bytes, at: int) -> tuple[JsonSpan, int]:
    """The member whose key begins there, and where what follows it begins, if not with space."""
    found = _MEMBER.match(body, at)
    if found is None or found.end(1) - at > _LONGEST_KEY:
        raise _wrong(body)
    start, end = found.span(2)
    if end >= 0:
        return JsonSpan(_name(found[1]), at, start, end), end
    start = found.end()
    after = _after(body, start)
    return JsonSpan(_name(found[1]), at, start, _without_space(body, after)), after


def _name(key: bytes) -> str:
    """What a key says, from its text with the quotes."""
    try:
        return msgspec.json.decode(key, type=str) if b"\\" in key else key[1:-1].decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(str(error)) from None


def _after(body: bytes, start: int) -> int:
    """Where, after the value that starts there and space, something follows: what msgspec complains of."""
    try:
        _skip(memoryview(body)[start:])
    except msgspec.DecodeError as error:
        trailing = _TRAILING.search(str(error))
        if trailing is not None:
            return start + int(trailing[1]) - 1
    except RecursionError:
        pass
    raise _wrong(body)


def _without_space(body: bytes, end: int) -> int:
    """Where the text before `end` stops being space; something else is in it."""
    while body[end - 1] in _SPACE:
        last = body[max(0, end - _STEP) : end]
        end -= len(last) - len(last.rstrip(_SPACE))
    return end


def _wrong(body: bytes) -> Refusal:
    """Why the members of a body cannot be told."""
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
    return _costly(f"a top-level field's name is longer than {_LONGEST_KEY} bytes")


def _not_json(problem: str) -> Refusal:
    return Refusal(400, "invalid_json", f"the body is not JSON: {problem}")


def _costly(problem: str) -> Refusal:
    return Refusal(400, "invalid_json", f"the body takes too much to read: {problem}")


def no_model() -> Refusal:
    problem = 'the body must be a JSON object with a string "model": GET /v1/models lists them'
    return Refusal(400, "invalid_model", problem, param="model")


def replaced(found: Sequence[JsonSpan], new: Mapping[str, bytes]) -> list[Splice]:
    """What gives these members their values; of duplicates the last, as it is the one that counts."""
    last = {member.name: member for member in found if member.name in new}
    return [Splice(member.start, member.end, new[name]) for name, member in last.items()]


def removed(found: Sequence[JsonSpan], gone: Container[str]) -> list[Splice]:
    """What takes these members out, each with one comma: the one before it, but for those that come first."""
    splices, kept = [], False
    for index, member in enumerate(found):
        if member.name not in gone:
            kept = True
        elif kept:
            splices.append(Splice(found[index - 1].end, member.end, b""))
        else:
            end = found[index + 1].first if index + 1 < len(found) else member.end
            splices.append(Splice(member.first, end, b""))
    return splices
