"""What muxd remembers of what happened: events, requests and switches that are over, series, usage.

`book` has all of it in memory, events and requests each in a `journal`; `series` has the figures of each second,
`usage_book` what each key took; `database` keeps it over a restart.  Nothing here says what a client or a model said.
"""

from .book import History

__all__ = ["History"]
