"""What of a body is changed for one model: its name, fields that are set for everybody, fields that are taken out."""

from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from muxd.http.request import Request

from .json_spans import JsonSpan, members, plain_model, removed, replaced
from .multipart import read_form
from .request_info import BodyFormat, RequestInfo
from .splices import Splice, spliced


class Edits:
    """Of one model.  What they do not name reaches the worker byte for byte."""

    __slots__ = ("_fields", "_gone", "_text", "_upstream_name", "idle")

    def __init__(self, upstream_name: str, set_params: dict[str, Any], strip_params: tuple[str, ...]) -> None:
        self.idle = not (upstream_name or set_params or strip_params)  # nothing is ever changed
        self._upstream_name = upstream_name
        self._text = {name: msgspec.json.encode(value) for name, value in set_params.items()}
        self._fields = {name.encode(): _as_field(value) for name, value in set_params.items()}
        self._gone = frozenset(strip_params) - set_params.keys() - {"model"}  # a worker is always told its name

    def apply(self, request: Request, asked: RequestInfo, adapter: str = "", name: str = "") -> bytes | None:
        """The body that the worker is to see; None where it is the client's.  Raises Refusal.

        `adapter` is the LoRA adapter of the model that is asked for, in SGLang's way: NAME:ADAPTER.  `name`, where it
        is not empty, goes in place of the client's, unless the configuration has one.
        """
        if (self.idle and not name) or asked.form is BodyFormat.NOTHING:
            return None
        upstream = self._upstream_name
        if upstream:
            name = f"{upstream}:{adapter}" if adapter else upstream
        renamed = name if name != asked.model and asked.in_body else ""
        if not (renamed or self._text or self._gone):
            return None
        return (
            self._in_form(request, renamed)
            if asked.form is BodyFormat.MULTIPART
            else self._in_json(request.body, renamed)
        )

    def _in_json(self, body: bytes, renamed: str) -> bytes:
        """`renamed` is the model's new name, or empty."""
        model = msgspec.json.encode(renamed)
        if renamed and not (self._text or self._gone) and (at := plain_model(body)) is not None:
            return b"".join((body[: at[0]], model, body[at[1] :]))
        found = list(members(body))
        splices = replaced(found, {**self._text, "model": model} if renamed else self._text)
        if self._gone:
            splices += removed(found, self._gone)
        if self._text and (missing := self._text.keys() - {member.name for member in found}):
            splices.append(self._addition(body, found, missing))
        return spliced(body, splices)

    def _addition(self, body: bytes, found: list[JsonSpan], missing: AbstractSet[str]) -> Splice:
        """The fields that the body lacks, after its last one, in the order of the configuration."""
        added = [msgspec.json.encode(name) + b":" + text for name, text in self._text.items() if name in missing]
        at = found[-1].end if found else body.index(b"{") + 1
        follows = any(member.name not in self._gone for member in found)
        return Splice(at, at, (b"," if follows else b"") + b",".join(added))

    def _in_form(self, request: Request, renamed: str) -> bytes:
        form = read_form(request)
        fields = self._fields | ({b"model": (renamed.encode(),)} if renamed else {})
        splices = [splice for name, values in fields.items() for splice in form.with_values(name, values)]
        splices += [splice for name in self._gone for splice in form.without(name.encode())]
        return spliced(request.body, splices)


def _as_field(value: Any) -> tuple[bytes, ...]:
    """The texts of a form's fields: of a list one each."""
    if isinstance(value, list):
        return tuple(text for item in value for text in _as_field(item))
    return (value.encode() if isinstance(value, str) else msgspec.json.encode(value),)
