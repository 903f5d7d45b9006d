"""What a request and an event cost in muxd's proxy and in its peers, side by side, in one table.

    python -m bench.dataplane [--rounds N] [--targets NAME ...] [--rows NAME ...] [--json FILE]

README.md, beside this file, tells what is measured, how, and how to read it.
"""
