"""The supervisor: the one loop that owns the core, and what it reads of this machine and tells clients for it.

loop            the core's events in, its commands carried out; the methods that the control socket calls
measurements    GPUs, strangers, host RAM and weights, read for the core
runner_set      the workers' runners, and the models that they run
client_streams  what clients who wait are told
"""

from .loop import Supervisor

__all__ = ["Supervisor"]
