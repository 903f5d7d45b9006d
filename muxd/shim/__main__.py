"""How a shim is run: `python -I -S -X utf8 .../muxd/shim/__main__.py NAME`, with a Spec as JSON on stdin.

The file is named because `-I -S` leaves `-m` no muxd to find: no site, no user's environment, and not the script's
own folder.  NAME is for who reads `ps`.  Run as a folder, `.../muxd/shim`, it would pay for runpy: 0.15 MB and 1.5 ms.
"""

import sys

if __name__ == "__main__":
    sys.path.append(__file__.rsplit("/", 3)[0])  # last, lest what lies beside muxd pass for the standard library
    from muxd.shim.shim import main

    main()
