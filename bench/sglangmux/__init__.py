"""muxd beside sglangmux 0.1.1: the same launch scripts, the same workers, the same requests.

    python -m bench.sglangmux [--only N ...] [--real]

Each experiment looks for one fault that sglangmux was seen to have, and says of both programs
what they did.  The workers are simulated SGLang servers that write down what reaches them and
what they answer (`worker`), behind a `python` on PATH, so that a script is what sglangmux's
users have: `python -m sglang.launch_server`.  With --real they are SGLang servers on the CPU.
"""
