"""Whose turn it is, beside other policies: the core itself in virtual time, seeded.

    python -m bench.scheduling [--quick] [--seeds N] [--write] [--real]

`workloads` has what clients want of models that share a GPU, `world` the GPU's engines and the clock.  `core_host` has
muxd's core decide, `peers` the rules of others as they are published, and `optimum` finds by exact search what could
have been had by somebody who knew everything before.  `goals` compares, `pages` writes a page of docs/explanation and
its picture, and `real` sends the same requests to processes of muxd and of sglangmux.
"""
