"""`muxd start --llmux FILE`: another program's configuration as all there is of one, or beside muxd's own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from muxd.config.load import ConfigOverlay
from muxd.config.problems import Problems
from muxd.config.schema import Config
from muxd.config.sources import Source

from . import llama_swap, llmux
from .imported_file import remark_lines
from .translations import Conversion

#: The programs whose configurations are read, and how.
PROGRAMS: dict[str, Callable[[Path, Problems], Conversion]] = {
    "llmux": llmux.convert,
    "llama-swap": llama_swap.convert,
}


@dataclass(slots=True)
class ImportOverlay:
    """A configuration of another program; the file is read anew at each reload."""

    program: str
    file: Path
    conversion: Conversion | None = None  # what the file said when it was read last

    @property
    def stands_alone(self) -> bool:
        return True

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]:
        self.conversion = PROGRAMS[self.program](self.file, problems)
        problems.raise_any()  # what muxd would say of half a configuration is no help
        translated = Source(self.file, self.conversion.tables, self.conversion.lines)
        problems.also(translated)
        return [translated]

    def amend(self, config: Config) -> Config:
        told = remark_lines(self.conversion) if self.conversion is not None else ()
        return replace(config, import_remarks=tuple(told))


@dataclass(frozen=True, slots=True)
class JointOverlay:
    """Several overlays, each laid over the ones before."""

    parts: tuple[ConfigOverlay, ...]

    @property
    def stands_alone(self) -> bool:
        return any(part.stands_alone for part in self.parts)

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]:
        added: list[Source] = []
        for part in self.parts:
            added += part.join([*sources, *added], problems)
        return added

    def amend(self, config: Config) -> Config:
        for part in self.parts:
            config = part.amend(config)
        return config
