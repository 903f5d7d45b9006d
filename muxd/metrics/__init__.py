"""The metrics of the supervisor and of the awake engines, for Prometheus.

`switches` counts switches while muxd runs, `facts` copies the state of one moment,
`engines` asks the awake engines, `merging` puts their pages together, `families` names
muxd's metrics and writes the page, and `scrape` makes one page for all scrapes that come
at the same time.

The first scrape imports the modules that need prometheus_client: the import takes 12 to
45 ms of CPU, by which `muxd start` would be slower.
"""

from .scrape import SupervisorMetrics

__all__ = ["SupervisorMetrics"]
