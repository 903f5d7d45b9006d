"""`muxd import`: read another program's configuration, write muxd's, and say what has no equal."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping

from muxd.config.load import read_config
from muxd.config.new_file import place, refuse_if_taken
from muxd.config.problems import shown_file

from .import_overlay import ImportOverlay
from .imported_file import file_text

_SHOWS = "without --output it is only printed"


def import_configuration(options: Namespace, environ: Mapping[str, str]) -> int:
    """Run `muxd import`; return 0 once the whole configuration is written, to a file or to stdout.

    Raise MuxdError where nothing was written.
    """
    if options.output is not None:
        refuse_if_taken(options.output, force=options.force, shows=_SHOWS)
    overlay = ImportOverlay(options.program, options.file)
    config, problems = read_config(None, environ, overlay, host=False)
    problems.raise_any()
    assert overlay.conversion is not None
    text = file_text(overlay.conversion, options.program)
    for line in config.import_remarks:
        print(line, file=sys.stderr)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    place(options.output, text, force=options.force, shows=_SHOWS)
    print(f"wrote {shown_file(options.output)}; next: muxd check --config {shlex.quote(str(options.output))}")
    return 0
