"""The operator's side of muxd: one verb per file.

Most verbs import the standard library only: muxctl starts fast.  Drawing on a terminal imports rich.
"""
