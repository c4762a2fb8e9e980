"""Any data set of the Hugging Face hub with a question and an answer column: hub:owner/name."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from harness.core.errors import ConfigError
from harness.tasks._base.own_data import OwnConfig, OwnData
from harness.tasks._base.own_files import OwnFiles, hub_files


class HubDataset(OwnData):
    """The files of a data set whose names have train, validation or test in them. No code of the data set is run.

    The commit that a revision is when it is first read is recorded, and read again later.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(OwnConfig):
        revision: str = "main"
        """A branch, a tag or a commit."""
        subset: str = ""
        """The folder of the files, for a data set with several."""

    NAME: ClassVar[str] = ""
    config: Config
    naming = "name a data set as hub:owner/name"

    @classmethod
    @functools.cache
    def member(cls, name: str) -> type[HubDataset]:
        """Return the class of the task of that data set."""
        owner, slash, rest = name.partition("/")
        if not (owner and slash and rest) or "/" in rest:
            raise ConfigError(f"a data set of the hub is hub:owner/name, not hub:{name}")
        return type(cls.__name__, (cls,), {"NAME": name, "__module__": cls.__module__})

    def own_files(self) -> OwnFiles | None:
        if not self.NAME:
            return None
        return hub_files(self.NAME, self.config.revision, self.config.subset)


TASK = HubDataset
