"""What a check of the configuration finds, in muxd/config/rules.py, of an engine's keys, or of this machine."""

import re

from .lines import KeyPath

#: The path of a key, and what is wrong with its value; then "; ", and what to do.
Finding = tuple[KeyPath, str]

#: What a shell would replace, in a value that no shell reads: ${NAME} anywhere, but $NAME only as a path or at the
#: beginning of one, also in a list of paths, as "pa$word" may be a password.
SHELL_VARIABLE = re.compile(r"\$\{\w+[^}]*\}|^\$[A-Za-z_]\w*(?=$|[/:])|(?<=:)\$[A-Za-z_]\w*(?=$|[/:])")
