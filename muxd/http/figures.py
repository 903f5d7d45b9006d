"""Figures of Content-Length, listed, so that the one that a message must have is compared with what it has, not read.

Of a message without its figure and its body the bytes are known.  So many are left that one figure alone can be right:
`FIGURES[left]`, of a body that takes the rest of them.  To read a figure takes ten times as many instructions.
"""

LISTED = 16 << 10  # bytes of figure and body, below which figures are listed


#: The figure of each body, by its size.
LENGTHS = [b"%d" % size for size in range(LISTED)]


def _figures() -> list[bytes]:
    figures: list[bytes] = []
    for size, figure in enumerate(LENGTHS):
        while len(figures) < size + len(figure):  # so many bytes have no figure: what is longer than they are is none
            figures.append(b"\0" * (len(figures) + 1))
        figures.append(figure)
    return figures[:LISTED]


FIGURES = _figures()
