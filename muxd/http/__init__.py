"""HTTP/1.1 on sockets, one stack for the control socket, the proxy and the simulator.

`request` reads requests, `response` writes answers, `server` joins the two on trio.
Nothing here knows about models.
"""
