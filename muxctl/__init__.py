"""The operator's side of muxd: one verb per file, standard library only until it draws on a terminal."""
