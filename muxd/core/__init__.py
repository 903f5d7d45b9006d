"""The decisions of muxd, with no I/O: events go in, commands come out.

Nothing here knows trio, the operating system, the clock, an engine or a GPU library.
"""
