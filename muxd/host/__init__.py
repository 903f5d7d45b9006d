"""What is on this machine: interpreters and their SGLang, models, GPUs, ports.  `muxd init` and `muxd check` ask here.

Every probe is bounded in time, changes nothing, and says why it knows nothing.
"""
