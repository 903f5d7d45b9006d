"""Checks whether anybody may use the models: no key is asked for, and other machines reach the socket.

muxd/config/rules.py has checked the address in the configuration when it was read.  A socket that systemd passes has
an address of its own, which is known only when the proxy starts.
"""

from muxd.config.loopback import ADVICE, is_loopback
from muxd.config.schema import Config
from muxd.errors import ConfigError


def loopback_only(config: Config, sockname: object) -> None:
    """Raise ConfigError where the socket is open to anybody, and the configuration does not allow that."""
    if would_open(config, sockname):
        advice = ADVICE.format("write allow_anonymous = true under [proxy]")
        raise ConfigError([f"the proxy was passed a socket at {_address(sockname)}, which {advice}"])


def said_at_start(config: Config, sockname: object) -> str | None:
    """Return the warning to log where the socket is open to anybody, as the configuration allows; else None."""
    if not _is_open(config, sockname):
        return None
    return f"{_address(sockname)} asks nobody for an API key (allow_anonymous): whoever reaches it may use the models"


def metrics_said_at_start(config: Config) -> str | None:
    """Return the warning to log where other machines reach the metrics port, which asks for no key; else None.

    That is no error, as Prometheus may run on another machine.
    """
    where = config.proxy.metrics_listen
    if where is None or is_loopback(where[0]):
        return None
    return f"{_address(where)} (metrics_listen) tells whoever reaches it the models' names and how they are used"


def would_open(config: Config, sockname: object) -> bool:
    """Return whether `config` would open the socket to anybody without allowing that."""
    return _is_open(config, sockname) and not config.proxy.allow_anonymous


def _is_open(config: Config, sockname: object) -> bool:
    """Return whether the socket is open to anybody; `sockname` as from getsockname(2).

    A Unix socket is not: the permissions of its file guard it.
    """
    return not config.keys and isinstance(sockname, tuple) and not is_loopback(sockname[0])


def _address(sockname: object) -> str:
    host, port = sockname[:2] if isinstance(sockname, tuple) else (sockname, "")
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
