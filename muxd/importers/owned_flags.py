"""Flags of an engine's command line that muxd gives itself: they are left out of what is imported."""

from collections.abc import Sequence

from muxd.config.flags import owned_flag

#: Flags of vLLM and SGLang, each with whether a value stands behind it.
OWNED = {
    **dict.fromkeys(("--host", "--port", "--uds", "--served-model-name", "--api-key", "--admin-api-key"), True),
    **dict.fromkeys(("--model", "--model-path", "--shutdown-timeout", "--middleware"), True),
    **dict.fromkeys(
        ("--enable-sleep-mode", "--no-enable-sleep-mode", "--enable-memory-saver", "--enable-weights-cpu-backup"), False
    ),
    **dict.fromkeys(("--enable-metrics", "--sleep-on-idle"), False),
}

#: Flags whose values become keys of the model.
_TAKEN_OVER = ("--port", "--model", "--model-path")

#: Flags of a server that ask its clients for a key.
_KEYS = ("--api-key", "--admin-api-key")

#: Flags behind which vLLM takes several values, of those in OWNED.
_SEVERAL = ("--served-model-name", "--api-key")


def without_owned(args: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the arguments without muxd's own flags, and the values of those that were left out, by flag."""
    kept: list[str] = []
    left_out: dict[str, list[str]] = {}
    expected = ""  # the flag whose values come now
    for word in args:
        written, equals, value = word.partition("=")
        if flag := owned_flag(written, OWNED):
            left_out.setdefault(flag, []).extend([value] if equals else [])
            expected = flag if OWNED[flag] and not equals else ""
        elif expected and not word.startswith("-"):
            left_out[expected].append(word)
            expected = expected if expected in _SEVERAL else ""
        else:
            kept.append(word)
            expected = ""
    return kept, left_out


def why_left_out(flag: str) -> str:
    """Return what is to be said of a flag of muxd's own that was left out; "" where a key says the same."""
    if flag in _TAKEN_OVER:
        return ""
    if flag in _KEYS:
        instead = "give clients one of muxd's, muxctl keys add, see [[keys]]"
        return f"{flag} is left out, and its key is not asked for: {instead}"
    return f"{flag} is left out: muxd gives it itself"
