"""HTTP/1.1 on sockets, one stack for the control socket, the proxy and the simulator.

`request` parses requests, `response` builds responses, `server` serves both on trio; who may connect there, and how
often, is in `connection_limiter` and `accepting`.  Nothing in this package knows about models.
"""
