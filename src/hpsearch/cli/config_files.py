"""The files of configuration: those of hpsearch, and those of a folder of the person's own.

`--config-dir DIR` names such a folder. Its files come before those of hpsearch, as in Hydra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra

from hpsearch.errors import ConfigError


def _folder_of_hpsearch() -> Path:
    """Return the folder of a wheel, in which conf/ lies in the package, or that of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    if installed.is_dir():
        return installed
    return package.parents[1] / "conf"


CONF = _folder_of_hpsearch()


@dataclass(frozen=True)
class ConfigFiles:
    """The folders in which a command line finds its files.

    Attributes:
        own: The folder that the person names by `--config-dir`, or None.
    """

    own: Path | None = None

    @classmethod
    def of(cls, folder: str | None) -> ConfigFiles:
        """Return the files of a command line.

        Args:
            folder: What `--config-dir` names, relative to the current folder; None without it.

        Raises:
            ConfigError: There is no such folder.
        """
        if folder is None:
            return cls()
        path = Path(folder).absolute()
        if not path.is_dir():
            raise ConfigError(
                f"--config-dir={folder} must name a folder that exists, with files such as "
                "experiment/NAME.yaml."
            )
        return cls(path)

    def choices(self, group: str) -> list[str]:
        """Return the names of the files of a group, sorted."""
        names = set()
        for folder in self._folders():
            names |= {path.stem for path in (folder / group).glob("*.yaml")}
        return sorted(names)

    def has_group(self, group: str) -> bool:
        """Return whether a name is that of a group."""
        return group != "" and any((folder / group).is_dir() for folder in self._folders())

    def is_group(self, key: str) -> bool:
        """Return whether a key names a group, whose values are names of files."""
        return self.has_group(key.partition("@")[0])

    @contextmanager
    def composing(self, root: str) -> Iterator[None]:
        """Let `hydra.compose` read these files within the block.

        Args:
            root: The name of the job.
        """
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
            if self.own is not None:
                search_path = create_config_search_path(str(CONF))
                search_path.prepend("command-line", f"file://{self.own}")
                GlobalHydra.instance().clear()
                Hydra.create_main_hydra2(task_name=root, config_search_path=search_path)
            yield

    def _folders(self) -> list[Path]:
        if self.own is None:
            return [CONF]
        return [self.own, CONF]
