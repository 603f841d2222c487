"""The configs that come with the package, by name: ``CIFAR10/BigGAN-TopK``."""

import difflib
from pathlib import Path

from topk_plugin.base.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def configs_folder() -> Path:
    """Where they are: inside of an installed package, else in the source tree."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """All of them, sorted."""
    folder = configs_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in _files(folder))


def config_file(given: Path) -> Path:
    """The file that ``-cfg`` means: one that exists, else the shipped config of that name.

    Names may end in .yaml and begin with configs/, as paths in a checkout do.

    Raises:
        UserError: there is neither.
    """
    if given.is_file():
        return given
    name = given.with_suffix("") if given.suffix in (".yaml", ".yml") else given
    if not given.is_absolute():
        parts = name.parts[1:] if name.parts[:1] == ("configs",) else name.parts
        shipped = configs_folder().joinpath(*parts)
        shipped = shipped.with_name(f"{shipped.name}.yaml")
        if ".." not in parts and shipped.is_file():
            return shipped
    close = difflib.get_close_matches(name.as_posix(), config_names(), n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(
        f"-cfg {given}: there is no such file, and no config of that name comes with the "
        f"package{hint}; `topk-plugin configs` lists those that do"
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.yaml"))
