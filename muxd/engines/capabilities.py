"""What an engine can do, stated once by each engine: what its servers answer, how they sleep, what memory they take."""

from collections.abc import Mapping

from msgspec import Struct, field

#: By the level that a server is launched for, those at which it can sleep: host memory for its weights (level 1) is set
#: aside for its whole life, or not.
SLEEP_LEVELS = {
    0: frozenset({0, 2, 3}),
    1: frozenset({0, 1, 3}),
    2: frozenset({0, 2, 3}),
    3: frozenset({3}),
}


class Capabilities(Struct, frozen=True):
    """What servers of one engine can do, as far as muxd has a use for it.

    `routes` are the API paths that they answer, by what a model makes: "text" or "embeddings".  A model of which
    nobody knows what it makes is asked for any of them.
    """

    #: By the level that a server is launched for, the levels at which it can sleep then; 3, its end, is always one.
    sleep_levels: Mapping[int, frozenset[int]]
    routes: Mapping[str, frozenset[str]]
    hints: Mapping[str, str] = field(default_factory=dict)  # how a model is started to make that, or to take "adapters"
    #: Whether a sleep at level 1 keeps weights in host RAM, and a launch for level 2 keeps them out of there.
    counts_host_ram: bool = True
    sleeps_one_way: bool = False  # whether its sleep and wake are the same whatever the level is called
    uses_gpus: bool = True  # whether its servers run on this host's GPUs
    fatal_error: str = ""  # what an answer says whose server has lost its engine's process, and ends; "": nothing
    by_first_name: bool = False  # whether a server refuses names that it was not launched with
    has_gate: bool = False  # whether a server can wait, before it takes memory, until it is told to go on
    memory_flags: tuple[str, ...] = ()  # the flag's names by which a server is told its share of a GPU
