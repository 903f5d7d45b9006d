"""Changes of request bodies for one model: its name, fields that are set, fields that are removed."""

from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from muxd.http.request import Request

from .json_spans import JsonSpan, members, plain_model, removed, replaced
from .multipart import read_form
from .request_info import BodyFormat, RequestInfo
from .splices import Splice, spliced


class Edits:
    """The changes that one model's configuration asks for.  All other bytes of a body reach the worker as they are."""

    __slots__ = ("_form_texts", "_json_texts", "_removed", "_upstream_name", "idle")

    def __init__(self, upstream_name: str, set_params: dict[str, Any], strip_params: tuple[str, ...]) -> None:
        self.idle = not (upstream_name or set_params or strip_params)  # the configuration changes nothing
        self._upstream_name = upstream_name
        self._json_texts = {name: msgspec.json.encode(value) for name, value in set_params.items()}
        self._form_texts = {name.encode(): _form_texts_of(value) for name, value in set_params.items()}
        self._removed = frozenset(strip_params) - set_params.keys() - {"model"}  # a worker always needs a name

    def apply(self, request: Request, asked: RequestInfo, adapter: str = "", name: str = "") -> bytes | None:
        """Return the body for the worker; None where it is the client's, unchanged.  Raise Refusal.

        `adapter` is the LoRA adapter that is asked for, written NAME:ADAPTER as SGLang does.  `name`, where it is not
        empty, replaces the client's name of the model, unless the configuration has an `upstream_name`.
        """
        if (self.idle and not name) or asked.form is BodyFormat.NOTHING:
            return None
        upstream = self._upstream_name
        if upstream:
            name = f"{upstream}:{adapter}" if adapter else upstream
        renamed = name if name != asked.model and asked.in_body else ""
        if not (renamed or self._json_texts or self._removed):
            return None
        return (
            self._in_form(request, renamed)
            if asked.form is BodyFormat.MULTIPART
            else self._in_json(request.body, renamed)
        )

    def _in_json(self, body: bytes, renamed: str) -> bytes:
        """Return the changed JSON body; `renamed` is the model's new name, or empty to keep the client's."""
        model = msgspec.json.encode(renamed)
        if renamed and not (self._json_texts or self._removed) and (at := plain_model(body)) is not None:
            return b"".join((body[: at[0]], model, body[at[1] :]))
        spans = list(members(body))
        splices = replaced(spans, {**self._json_texts, "model": model} if renamed else self._json_texts)
        if self._removed:
            splices += removed(spans, self._removed)
        if self._json_texts and (missing := self._json_texts.keys() - {member.name for member in spans}):
            splices.append(self._addition(body, spans, missing))
        return spliced(body, splices)

    def _addition(self, body: bytes, spans: list[JsonSpan], missing: AbstractSet[str]) -> Splice:
        """Return the splice that adds the missing fields after the last one, in the order of the configuration."""
        added = [msgspec.json.encode(name) + b":" + text for name, text in self._json_texts.items() if name in missing]
        at = spans[-1].end if spans else body.index(b"{") + 1
        follows = any(member.name not in self._removed for member in spans)
        return Splice(at, at, (b"," if follows else b"") + b",".join(added))

    def _in_form(self, request: Request, renamed: str) -> bytes:
        form = read_form(request)
        fields = self._form_texts | ({b"model": (renamed.encode(),)} if renamed else {})
        splices = [splice for name, values in fields.items() for splice in form.with_values(name, values)]
        splices += [splice for name in self._removed for splice in form.without(name.encode())]
        return spliced(request.body, splices)


def _form_texts_of(value: Any) -> tuple[bytes, ...]:
    """Return the texts of the form fields for a value: one for each item of a list."""
    if isinstance(value, list):
        return tuple(text for item in value for text in _form_texts_of(item))
    return (value.encode() if isinstance(value, str) else msgspec.json.encode(value),)
