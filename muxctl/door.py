"""Who may use the models without an API key: `muxctl keys` says it before that changes.

This module is imported only where it is needed: it reads a configuration, which muxctl otherwise leaves to muxd.
"""

import os
from pathlib import Path

from muxd.config import salvage_config
from muxd.config.loopback import is_loopback


def anybody(config: Path) -> str:
    """Return a phrase for everybody whom the proxy's address lets in."""
    proxy = salvage_config(config, os.environ).proxy
    return "everybody on this host" if is_loopback(proxy.host) else f"everybody who reaches {proxy.host}:{proxy.port}"


def without_keys(config: Path) -> str:
    """Return a phrase for what follows from a configuration without any key.

    The rules are those of muxd/config/rules.py and muxd/proxy/auth/exposure.py.
    """
    proxy = salvage_config(config, os.environ).proxy
    if not (is_loopback(proxy.host) or proxy.allow_anonymous):
        return f"muxd neither starts nor reloads: {proxy.host} lets other machines in, see [proxy] allow_anonymous"
    opens = f"{anybody(config)} may use the models again after muxctl reload"
    return opens if proxy.managed else f"{opens}, but where systemd's socket lets other machines in no proxy starts"
