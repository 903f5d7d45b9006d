"""How a server's process is started, whatever its engine, and what was seen of the process."""
