"""What others have written down about their models, made into models of muxd: launch scripts.

`words` and `grammar` read a shell script into the pieces of `syntax`; `walk` follows it as
bash would, with `expansion`, `conditions`, `patterns` and `builtin`, in a `state`; `scripts`
takes from that what muxd has to know; `models` completes a model's table with it; `drop_in`
is sglangmux's command line.
"""
