"""Entry point of a shim: `python -I -S -X utf8 .../muxd/shim/__main__.py NAME`, with a ShimSpec as JSON on stdin.

The command line names the file because `-m` would find no muxd: `-I -S` takes site-packages, the user's environment
and the script's own folder off the path.  NAME only labels the process in `ps`.  A command line that named the folder,
`.../muxd/shim`, would import runpy: 0.15 MB and 1.5 ms.
"""

import sys

if __name__ == "__main__":
    sys.path.append(__file__.rsplit("/", 3)[0])  # last: files beside muxd must not shadow the standard library
    from muxd.shim.shim import main

    main()
