"""Your own problems from a file: mine.jsonl, or `id = "jsonl"` with a path; JSON, CSV and parquet too."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.core.errors import ConfigError
from harness.tasks._base.own_data import OwnConfig, OwnData
from harness.tasks._base.own_files import OwnFiles, local_files


class OwnFile(OwnData):
    """The rows of a file, or of a folder with files named train, validation and test.

    A single file serves training and tests alike, unless `split` names the column of the split. It has no
    validation split then.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(OwnConfig):
        path: str = ""
        """The file or folder. `--tasks mine.jsonl` gives it by itself."""

    NAME: ClassVar[str] = ""
    config: Config
    naming = 'set path = "mine.jsonl", or name the file as the task'

    @classmethod
    @functools.cache
    def member(cls, name: str) -> type[OwnFile]:
        """Return the class of the task of that path."""
        return type(cls.__name__, (cls,), {"NAME": name, "__module__": cls.__module__})

    def own_files(self) -> OwnFiles | None:
        path = self.config.path if self.config.path else self.NAME
        if not path:
            return None
        if self.config.path and self.NAME:
            raise ConfigError(f"the task {self.NAME} has a path already; leave out path = {self.config.path!r}")
        return local_files(Path(path))


TASK = OwnFile
