"""A stand-in SGLang server: real processes, real HTTP, pretend weights and pretend GPU memory.

`python -m muxd.simulator FLAGS` takes SGLang's flags and answers SGLang's routes.  The simulator sleeps, wakes,
refuses and dies as SGLang does, so that a mistake of muxd that would hurt SGLang hurts the simulator too.  The demo,
the tests and the scheduling benchmarks run on it, and say so.

`gpu_ledger` is the pretend GPU memory of the host; muxd measures it as it would measure a GPU.
Nothing here imports the supervisor, the core or the proxy.
"""
