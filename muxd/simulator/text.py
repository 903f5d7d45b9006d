"""What a pretend model says: words drawn from a hash of its weights and the prompt.

The same weights and prompt give the same text, other weights another; the first token
names the weights.  So a test can tell who answered, and that a sleep changed nothing.
"""

import random
from collections.abc import Iterator
from hashlib import blake2b

from .memory import GARBAGE

_WORDS = """
amber anchor apple ash basil birch bridge brook candle cedar chalk cliff clover coral dawn delta dune ember fern
field flint frost garden glass grove harbor hazel heron hill iron island ivy jade juniper kite lake lantern
larch lemon linen maple meadow mint mirror moss north oak olive opal orchard otter pearl pebble pine quartz reed
river robin rose sage sail salt sand
""".split()  # noqa: SIM905 (64 literals, one a line, would read worse)


def tokens(weights: str, prompt: str, salt: str = "") -> Iterator[str]:
    """The answer, without end; `salt` makes it another, as a temperature does."""
    if weights == GARBAGE:
        while True:
            yield "!"
    yield f"{weights}:"
    choose = random.Random(_digest(weights, prompt, salt)).choice
    while True:
        yield " " + choose(_WORDS)


def natural_length(weights: str, prompt: str, salt: str = "") -> int:
    """How many tokens the model says before it stops by itself: 16 to 47."""
    return 16 + _digest("length", weights, prompt, salt) % 32


def vector(weights: str, text: str, size: int = 16) -> list[float]:
    """An embedding of unit length."""
    draw = random.Random(_digest("vector", weights, text)).gauss
    raw = [draw(0, 1) for _ in range(size)]
    length = sum(x * x for x in raw) ** 0.5
    return [x / length for x in raw]


def token_ids(text: str) -> list[int]:
    """One id per word, for /tokenize and for counting a prompt."""
    return [_digest(word) % 32000 for word in text.split()]


def _digest(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest())
