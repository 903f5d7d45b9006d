"""What a pretend model says: words drawn from a hash of its weights and the prompt.

The same weights and prompt give the same text, other weights give another text; the first token names the weights.
So a test can tell which model answered, and that a sleep changed nothing.
"""

import random
from collections.abc import Iterator
from hashlib import blake2b

from .rank_memory import GARBAGE

WORDS = """
amber anchor apple ash basil birch bridge brook candle cedar chalk cliff clover coral dawn delta dune ember fern
field flint frost garden glass grove harbor hazel heron hill iron island ivy jade juniper kite lake lantern
larch lemon linen maple meadow mint mirror moss north oak olive opal orchard otter pearl pebble pine quartz reed
river robin rose sage sail salt sand
""".split()  # noqa: SIM905 (64 literals, one a line, would read worse)

END_OF_TEXT = 2  # the id of the token that a model stops with


def tokens(weights: str, prompt: str, salt: str = "") -> Iterator[str]:
    """Yield the tokens of the answer, without end; another `salt` gives another answer, as a temperature does."""
    if weights == GARBAGE:
        while True:
            yield "!"
    yield f"{weights}:"
    choose = draw(weights, prompt, salt).choice
    while True:
        yield " " + choose(WORDS)


def draw(*parts: str) -> random.Random:
    """Return a random generator that is seeded with the parts: it draws the same for the same parts."""
    return random.Random(_digest(*parts))


def natural_length(weights: str, prompt: str, salt: str = "") -> int:
    """Return how many tokens the model says before it stops by itself: 16 to 47."""
    return 16 + _digest("length", weights, prompt, salt) % 32


def likelihoods(weights: str, token: str, others: int) -> list[tuple[str, float]]:
    """Return the token and `others` alternatives with their logprobs, the likeliest first."""
    own = -(1000 + _digest("logprob", weights, token) % 1000) / 1000
    words = [word for word in WORDS if word != token.strip()]
    first = _digest("others", weights, token) % len(words)
    return [
        (token, own),
        *((f" {words[(first + n) % len(words)]}", round(own - n / 10, 3)) for n in range(1, others + 1)),
    ]


def vector(weights: str, text: str, size: int = 16) -> list[float]:
    """Return a text's embedding: `size` numbers, a vector of unit length."""
    gauss = draw("vector", weights, text).gauss
    raw = [gauss(0, 1) for _ in range(size)]
    length = sum(x * x for x in raw) ** 0.5
    return [x / length for x in raw]


def token_ids(text: str) -> list[int]:
    """Return one id per word, for /tokenize and for counting a prompt's tokens."""
    return [token_id(word) for word in text.split()]


def token_id(word: str) -> int:
    """Return the id of one word, 0 to 31999."""
    return _digest(word) % 32000


def _digest(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest())
