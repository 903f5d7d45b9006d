"""The errors of a group's router that tell of a lost worker.

sglang-router 0.3.2 answers a request whose worker is gone with 500 and a header of its own, which it never adds to what
a worker has answered: `x-smg-error-code: call_upstream_request_error` where the worker died with the request or could
not be reached, and `no_available_workers`, with 503, where it has none to pass the request to.  Both come before any
byte of an answer.  Later routers say `call_upstream_connection_failed` where the worker could not be reached.
"""

_HEADER = b"\r\nx-smg-error-code: "

#: Seconds within which a router's error is taken for a refused connection: in 0.3.2 its code is the same where the
#: worker dies of the request.  A refusal takes 3 ms on a quiet machine.
REFUSED_WITHIN = 0.05

#: The codes of errors for a request that no worker had.
NOBODY_HAD_IT = ("no_available_workers", "call_upstream_connection_failed")


def router_error(head: bytes) -> str:
    """Return the router's code in the head, in lower case, of an error; "" where the error is a worker's."""
    start = head.find(_HEADER)
    if start < 0:
        return ""
    start += len(_HEADER)
    return head[start : head.index(b"\r\n", start)].decode("latin-1")
