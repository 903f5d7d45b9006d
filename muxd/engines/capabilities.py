"""What an engine can do, stated once by each engine: what its servers answer, how they sleep, what memory they take."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What servers of one engine can do, as far as muxd has a use for it.

    `routes` are the API paths that they answer, by what a model makes: "text" or "embeddings".  A model of which
    nobody knows what it makes is asked for any of them.
    """

    sleep_levels: frozenset[int]  # at which a server can be launched to sleep; 3, its end, is always one
    routes: Mapping[str, frozenset[str]]
    hints: Mapping[str, str] = field(default_factory=dict)  # how a model is started to make that, for messages
    memory_flags: tuple[str, ...] = ()  # the flag's names by which a server is told its share of a GPU
    is_pretend: bool = False  # servers take pretend GPU memory, and none of this machine's
