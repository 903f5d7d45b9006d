"""Any server of OpenAI's API, started by a command of the user's: its probes, its stop, and its steps to sleep."""
