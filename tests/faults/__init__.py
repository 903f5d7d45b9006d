"""The fault matrix on real processes: `make faults`.  docs/reliability.md names the test of every row."""
