"""The kinds of events that `muxctl events` shows, as `type`."""

KINDS = (
    "handover",  # the next muxd takes over
    "loan",  # of a GPU to a command
    "log_lost",
    "log_written_again",
    "muxd_started",
    "notice",  # what an operator should mend although a model serves, or so that it can; with `over` once it is
    "operator",  # an order, with the user who gave it
    "order_dropped",  # an order that an earlier muxd left is too old to be carried out
    "proxy_exited",
    "reload",
    "reload_failed",
    "scaled",
    "shutdown",
    "state",  # a model's state has changed, with how long it had the last one
    "switch",  # one is over, with who asked and where its time went
    "validated",
)
