"""How things look: tables, one model in full, progress, and what is redrawn on a terminal."""
