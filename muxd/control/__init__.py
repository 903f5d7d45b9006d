"""The control socket's server: who may ask, what may be asked, and how it is answered.

`socket` makes the one socket of one muxd, `rights` says what a peer may do, `routes` and
`streaming` answer.  The answers come from a ControlService (the supervisor), which returns
them at once: no request waits behind a switch.
"""

from muxd.control.rights import Rights
from muxd.control.routes import serve_control
from muxd.control.service import ControlService
from muxd.control.socket import ControlSocket

__all__ = ["ControlService", "ControlSocket", "Rights", "serve_control"]
