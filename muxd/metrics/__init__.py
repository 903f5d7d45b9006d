"""What Prometheus is told of the supervisor, and of the engines that are awake.

`switches` counts while muxd runs, `facts` copies what holds now, `engines` asks the awake
engines, `merging` puts their pages together, `families` names and writes it all, `page`
makes one page of these for everybody who asks at the same time.

Whatever needs prometheus_client is imported by the first who asks, not before: importing
it costs 12 to 45 ms of CPU, and `muxd start` has none to give away.
"""

from .scrape import SupervisorMetrics

__all__ = ["SupervisorMetrics"]
