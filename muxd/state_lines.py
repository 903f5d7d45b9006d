"""The state file's form: one line for each record, with a checksum, so that damage costs no more than what it hits.

    d2a04f4a ["muxd state",2,5]                             the form's version, and how many lines follow
    7b1c0e55 ["workers","qwen",{"child":{...},...}]         one entry of a table of the state
    10fe33c9 ["stopped",null,["llama"]]                     a field that is no table

A line whose checksum does not fit, or that says what this muxd does not understand, is left out and reported: what it
named is then found by lock files and tokens, as after a lost file.  The first form, one JSON object, is read as well.
"""

from typing import Any, TypeVar, get_args, get_origin, get_type_hints
from zlib import crc32

import msgspec

from .own_files import UNREADABLE

#: What the first line says, and the number of the form.
MAGIC, FORM = "muxd state", 2

State = TypeVar("State", bound=msgspec.Struct)


def encoded(state: msgspec.Struct) -> bytes:
    """Return the file's content for a state, whose fields are tables of records or anything else that JSON has."""
    lines = []
    for name in state.__struct_fields__:
        value = getattr(state, name)
        if isinstance(value, dict):
            lines += [_line(name, key, record) for key, record in value.items()]
        elif value:
            lines.append(_line(name, None, value))
    return b"".join([_line(MAGIC, FORM, len(lines)), *lines])


def decoded(data: bytes, kind: type[State]) -> tuple[State, str]:
    """Return what is left of a state of this kind, and what is wrong with its file, "" where nothing is.

    Raise one of UNREADABLE for a file of another form, or of which nothing can be read.
    """
    if data.startswith(b"{"):
        return msgspec.json.decode(data, type=kind), ""
    state, hints = kind(), get_type_hints(kind)
    count, damaged, expected = 0, 0, -1
    for line in data.splitlines():
        count += 1
        try:
            name, key, value = _read(line)
            if name == MAGIC:
                expected = _expected(key, value)
            else:
                _put(state, hints[name], name, key, value)
        except _AnotherForm:
            raise
        except (*UNREADABLE, KeyError, TypeError):
            damaged += 1
    if damaged == count:
        raise ValueError("nothing in it is as it was written")
    return state, _report(count, damaged, expected)


class _AnotherForm(ValueError):
    pass


def _line(*record: Any) -> bytes:
    text = msgspec.json.encode(record)
    return b"%08x %b\n" % (crc32(text), text)


def _read(line: bytes) -> list[Any]:
    """Return what a line says; raise one of UNREADABLE where it is not what was written."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        raise ValueError("another checksum")
    return msgspec.json.decode(text, type=list[Any])


def _expected(form: Any, lines: Any) -> int:
    if form != FORM or type(lines) is not int:
        raise _AnotherForm(f"it is of form {form}, and this muxd reads 1 and {FORM}")
    return lines


def _put(state: msgspec.Struct, hint: Any, name: str, key: Any, value: Any) -> None:
    """Put what a line says into the state; raise one of UNREADABLE where it is of another type."""
    if get_origin(hint) is dict:
        _, of_record = get_args(hint)
        getattr(state, name)[msgspec.convert(key, str)] = msgspec.convert(value, of_record, str_keys=True)
    else:
        setattr(state, name, msgspec.convert(value, hint))


def _report(count: int, damaged: int, expected: int) -> str:
    if expected < 0:
        return (
            f"its first line is damaged, and so are {damaged - 1} of {count - 1} records"
            if damaged
            else "it has no first line"
        )
    missing = expected - (count - 1 - damaged)
    return f"{missing} of {expected} records are damaged or missing" if missing > 0 else ""
