"""The display of muxctl: tables, one model in full, progress, and screens that are redrawn on a terminal."""
