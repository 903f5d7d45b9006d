"""A shell script, read and followed without running it.

`words`, `simple` and `grammar` read it into the pieces of `syntax`; `flow` and `walk` follow
them as bash would run them, with `expansion`, `parameters`, `patterns` and `conditions`, in a
`state`; `builtin` and `programs` are what is known of commands.
"""
