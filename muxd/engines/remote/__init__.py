"""Servers that muxd does not start: on other hosts, in a cluster, or behind a Unix socket of this one."""
