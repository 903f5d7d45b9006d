"""The supervisor: the one loop that owns the core, and what it reads of this machine and tells clients for it.

loop            the core's events in, its commands out; the timer and the tick
commands        what each command does
service         the methods that the control socket calls
reload          the running configuration, and the way to another one
measurements    GPUs, strangers, host RAM and weights, read for the core
learned         what was measured of workers, kept for the next muxd
runner_set      the workers' runners, and the models that they run
sessions        the proxies' sessions: their leases, and what each proxy is to be told
order_streams   the streams to operators who wait
progress_pace   when whoever waits is told again how it goes
validations     what is measured of models that are validated
wire            the messages and lines themselves
context         what these modules share
"""

from .loop import Supervisor
from .reload import Reread

__all__ = ["Reread", "Supervisor"]
