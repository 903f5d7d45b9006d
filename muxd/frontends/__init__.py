"""The processes that clients and browsers talk to: how muxd keeps the proxy's and the console's running, ports bound.

A proxy of several processes that runs without muxd has a parent of its own, `proxy_parent`.
"""
