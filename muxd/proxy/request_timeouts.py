"""The times that the configuration sets for all proxied requests."""

from math import inf

from msgspec import Struct


class RequestTimeouts(Struct, frozen=True):
    """The times of all proxied requests, in seconds."""

    upstream_timeout: float = inf  # to the first byte of a response
    comment_interval: float = inf  # between two comments to a streaming client that waits
