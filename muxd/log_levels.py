"""The names of log levels, for the configuration and for a command line that is read before it."""

LOG_LEVELS = ("debug", "info", "warning", "error")
