"""Fields of requests that llama-swap's filters take out or set, for a model and for a peer."""

from __future__ import annotations

from typing import Any

from muxd.config.lines import KeyPath
from muxd.config.readers import text

from .translations import Conversion

_CLIENTS_STREAM = "stream is left out: it is the client's to say"


def fields_taken_out(conversion: Conversion, at: KeyPath, value: Any) -> list[str]:
    """Return the fields that are taken out of requests; what is not is noted."""
    fields = dict.fromkeys(field.strip() for field in (conversion.read(at, value, text) or "").split(","))
    if "stream" in fields:
        conversion.remark(at, _CLIENTS_STREAM)
    return [field for field in fields if field not in ("", "model", "stream")]


def fields_put_in(conversion: Conversion, at: KeyPath, value: Any) -> dict[str, Any]:
    """Return the fields that are set in requests; what is not is noted."""
    if not isinstance(value, dict):
        conversion.wrong(at, "not a mapping; write temperature: 0.7 below it")
        return {}
    if "stream" in value:
        conversion.remark(at, _CLIENTS_STREAM)
    if None in value.values():
        conversion.remark(at, "no equal: a field that is set to null; strip_params takes it out of requests")
    return {field: given for field, given in value.items() if field not in ("model", "stream") and given is not None}
