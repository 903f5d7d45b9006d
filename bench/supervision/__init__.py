"""muxd beside supervisor 4.3.0 and sglangmux 0.1.1 under the same faults, on the same simulated worker.

    python -m bench.supervision [--only N ...] [--write]

The faults are rows of docs/reliability.md, by their numbers; `--write` puts the table there.  Each of the three keeps
one simulated SGLang server, started by the same launch script.  supervisor has no proxy: its clients ask that server.
What one of them is not made for is not held against it: the cell says so.
"""
