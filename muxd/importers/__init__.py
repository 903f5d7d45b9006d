"""What others have written down about their models, made into models of muxd: launch scripts.

`lexer` parts a script's text, `plain` reads what is written plainly in it, `scripts` takes from that what muxd has to
know, `remarks` what its operator should; `models` completes a model's table with it; `drop_in` is sglangmux's command
line.  All else of a script is seen at its process: see muxd/observed_scripts.py.
"""
