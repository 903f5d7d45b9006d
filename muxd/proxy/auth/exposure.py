"""Whether anybody may use the models: nobody is asked for a key, and other machines reach the socket.

The configuration's own address was judged when it was read (muxd/config/rules.py).  The socket
that systemd passes has another one, which nobody has seen until the proxy starts.
"""

from muxd.config.loopback import ADVICE, is_loopback
from muxd.config.schema import Config
from muxd.errors import ConfigError


def loopback_only(config: Config, sockname: object) -> None:
    """Raise ConfigError where the socket is open to anybody, and the configuration does not say that it may be."""
    if would_open(config, sockname):
        advice = ADVICE.format("write allow_anonymous = true under [proxy]")
        raise ConfigError([f"the proxy was passed a socket at {_shown(sockname)}, which {advice}"])


def said_at_start(config: Config, sockname: object) -> str | None:
    """The line to log where it is open to anybody, as the configuration wants it."""
    if not _anybody(config, sockname):
        return None
    return f"{_shown(sockname)} asks nobody for an API key (allow_anonymous): whoever reaches it may use the models"


def metrics_said_at_start(config: Config) -> str | None:
    """The line to log where other machines reach the metrics, which have no key: Prometheus may be on one of them."""
    where = config.proxy.metrics_listen
    if where is None or is_loopback(where[0]):
        return None
    return f"{_shown(where)} (metrics_listen) tells whoever reaches it the models' names and how they are used"


def would_open(config: Config, sockname: object) -> bool:
    """Whether this configuration would let anybody in through the socket, without saying that it may."""
    return _anybody(config, sockname) and not config.proxy.allow_anonymous


def _anybody(config: Config, sockname: object) -> bool:
    """`sockname` as getsockname(2) has it.  A Unix socket has its file's permissions for a door."""
    return not config.keys and isinstance(sockname, tuple) and not is_loopback(sockname[0])


def _shown(sockname: object) -> str:
    host, port = sockname[:2] if isinstance(sockname, tuple) else (sockname, "")
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
