"""Bodies of requests that name no model, with the code of the refusal."""

NAMELESS = [
    (b"", "invalid_json"),
    (b'{"model": "alpha", ', "invalid_json"),
    (b'{"model": "alpha"} x', "invalid_json"),
    (b'{"model": "\xff"}', "invalid_json"),
    (b"[1]", "invalid_model"),
    (b'"alpha"', "invalid_model"),
    (b"{}", "invalid_model"),
    (b'{"model": null}', "invalid_model"),
    (b'{"model": 7}', "invalid_model"),
    (b'{"model": "alpha", "x": ' + b"[" * 100_000, "invalid_json"),
]
