"""Which clients may send requests, and how often: API keys, rate limits, hosts, origins."""
