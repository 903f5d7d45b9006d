"""What others have written down about their models, made into models of muxd: launch scripts.

`shell` reads a script and follows it as bash would; `scripts` takes from that what muxd has
to know; `models` completes a model's table with it; `drop_in` is sglangmux's command line.
"""
