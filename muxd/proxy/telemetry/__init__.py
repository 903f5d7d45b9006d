"""What the proxy tells of its work: metrics, the access log, request ids, tokens counted."""
