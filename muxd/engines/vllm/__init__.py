"""vLLM: its flags, probes, sleep and wake, and what its last words mean."""
