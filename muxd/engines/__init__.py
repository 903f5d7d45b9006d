"""The kinds of server that can run a model: one package per kind, and the registry of them.

An engine knows flags, probes and the calls that put its server to sleep and wake it.
An engine knows nothing of scheduling, and the scheduler knows nothing of engines.
"""
