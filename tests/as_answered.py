"""What the control socket answers, held against the fields that conf/openapi.json names."""

from typing import Any

import msgspec


def as_answered(answer: Any, form: Any) -> Any:
    """Return an answer that has each field of its form in the kind it is said to be, and no field beside them."""
    assert msgspec.to_builtins(msgspec.convert(answer, form)) == answer
    return answer
