"""`muxd import`: read another program's configuration, write muxd's, and say what has no equal."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from muxd.config.load import read_config
from muxd.config.new_file import MODE, place, refuse_if_taken
from muxd.config.problems import shown_file
from muxd.errors import ConfigError

from .import_overlay import ImportOverlay
from .imported_file import file_text

_SHOWS = "without --output it is only printed"

#: The mode of a file that its owner alone may read.
OWNERS = 0o600


def import_configuration(options: Namespace, environ: Mapping[str, str]) -> int:
    """Run `muxd import`; return 0 once the whole configuration is written, to a file or to stdout.

    Raise MuxdError where nothing was written.
    """
    if options.output is not None:
        _refuse_place(options.file, options.output)
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
    mode = _mode(options.file, is_private=overlay.conversion.is_private)
    place(options.output, text, force=options.force, shows=_SHOWS, mode=mode)
    print(f"wrote {shown_file(options.output)}; next: muxd check --config {shlex.quote(str(options.output))}")
    return 0


def _refuse_place(source: Path, output: Path) -> None:
    """Raise ConfigError where the output would take the place of what is imported, or has no folder."""
    with suppress(OSError):  # one of the two is not there
        if os.path.samefile(source, output):
            raise ConfigError([f"{shown_file(output)}: is the file that is imported; --output FILE names another"])
    if not os.path.isdir(folder := output.parent):
        raise ConfigError([f"{shown_file(output)}: there is no folder {shown_file(folder)}; make it, or name another"])


def _mode(source: Path, *, is_private: bool) -> int:
    """Return the mode of the file that is written: nobody may read there who may not read what was imported."""
    return OWNERS if is_private else (MODE & source.stat().st_mode) | OWNERS
