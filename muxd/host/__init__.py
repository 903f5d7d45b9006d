"""Probes of this machine, for `muxd init` and `muxd check`: models, GPUs, ports.

Every probe is bounded in time, changes nothing, and says why it knows nothing.
"""
