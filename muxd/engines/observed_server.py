"""What one server of a launch script was seen to be."""

import msgspec


class ObservedServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One server, by its command line, its environment and its own answers."""

    port: int
    model: str = ""
    served: str = ""
    gpus: tuple[str, ...] = ()  # by id; none: they could not be seen
    sleep_level: int = 3
    is_embedding: bool = False
    asks_key: bool = False  # an API key, which clients would have to show
