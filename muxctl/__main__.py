"""Entry point of muxctl."""

import _signal  # type: ignore[import-not-found]  # `signal` itself takes some of the time that is meant here
import sys


def main() -> int:
    """Run the process's own command line; return its exit code.

    While Python imports what that takes, Ctrl-C ends the process as it ends any program, and shows no traceback.
    """
    is_heeded = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler  # else it is ignored, as under nohup
    if is_heeded:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from muxctl import cli

    if is_heeded:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
