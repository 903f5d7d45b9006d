"""A folder with another program's configuration, and what muxd makes of it."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from muxd.config.load import read_config
from muxd.config.schema import Config
from muxd.errors import ConfigError
from muxd.importers.import_overlay import ImportOverlay
from muxd.importers.imported_file import file_text


@dataclass(frozen=True)
class Imports:
    """`Imports(PROGRAM, FOLDER)`: configurations of one program, written into a folder."""

    program: str
    folder: Path

    @property
    def environ(self):
        return {"HOME": str(self.folder), "PATH": "/nowhere", "BIRDS_KEY": "sk-of-the-birds"}

    def write(self, text, name="config.json"):
        file = self.folder / name
        file.write_text(text)
        return file

    def load(self, text, name="config.json") -> Config:
        """The configuration as muxd reads it straight from the other program's file, where nothing is wrong with it.

        muxd.toml as it would be written is read, too, and must say the same.
        """
        return self.load_file(self.write(text, name))

    def load_file(self, file: Path) -> Config:
        overlay = ImportOverlay(self.program, file)
        config, problems = read_config(None, self.environ, overlay, host=False)
        problems.raise_any()
        written = self.folder / "muxd.toml"
        written.write_text(file_text(overlay.conversion, self.program))
        again, problems = read_config(written, self.environ, host=False)
        problems.raise_any()
        assert [replace(model, cwd=None) for model in again.models] == [
            replace(model, cwd=None) for model in config.models
        ]
        assert (again.proxy, again.policy, again.keys) == (config.proxy, config.policy, config.keys)
        return config

    def problems(self, text, name="config.json"):
        """What is wrong with a file, without the path of the folder."""
        overlay = ImportOverlay(self.program, self.write(text, name))
        with pytest.raises(ConfigError) as caught:
            read_config(None, self.environ, overlay, host=False)[1].raise_any()
        return [problem.replace(f"{self.folder}/", "") for problem in caught.value.problems]

    def remarks(self, text, name="config.json"):
        """What is said of keys without an equal, in the order of the file, without its path."""
        told = self.load(text, name).import_remarks
        return [remark.replace(f"{self.folder}/{name}", "") for remark in told]


def run(*words, folder):
    """Run `muxd import WORDS` in a folder."""
    argv = [sys.executable, "-m", "muxd", "import", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder)
