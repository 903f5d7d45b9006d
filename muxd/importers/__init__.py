"""What others have written down about their models, made into models of muxd: launch scripts, configurations.

`bash_syntax` has the syntax tree of a script, by tree-sitter; `expansion` makes words of it as bash would, and
`plain_reader` reads what is written plainly, and counts the rest as unknown.  `scripts` takes from that what muxd has
to know, `remarks` what its operator should; `slips` tells what is no launch script, and what is written amiss in one.
`script_models` completes a model's table, and `drop_in` is sglangmux's command line.
All else of a script is seen at its process: see muxd/launchers/observed_scripts.py.

`llmux` and `llama_swap` translate the configurations of those programs, key by key (`translations`), with the lines of
their files (`documents`); `import_overlay` lays the result over muxd's files, `verb` and `imported_file` write it down.
"""
