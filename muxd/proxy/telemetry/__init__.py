"""What the proxy records of its requests: metrics, the access log, request ids, token counts."""
