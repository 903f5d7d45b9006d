"""`python -m muxd.simulator FLAGS`: fork the children while this process is small, then become the main process."""

import gc
import signal
import sys
from collections.abc import Sequence

from .command_line import parse_flags
from .crashes import ENDINGS
from .process_tree import fork_children, leave_temporary_files


def main(argv: Sequence[str]) -> int:
    """Run one server until it ends; return the exit status, where the main process does not end the process itself."""
    flags = parse_flags(argv)
    if (ending := flags.faults.ending()) is not None:
        ENDINGS[ending].happen(flags.model_path)
    if flags.faults.has("ignore-term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"muxd.simulator: {flags.model_path} as {flags.served_model_name}: loading", flush=True)
    children = fork_children(flags)
    leave_temporary_files()

    gc.disable()  # while modules come
    import trio

    from .main_process import serve

    gc.freeze()
    gc.enable()
    try:
        trio.run(serve, flags, children)
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
