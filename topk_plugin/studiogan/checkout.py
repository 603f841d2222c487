"""What a checkout of PyTorch-StudioGAN is, and where one is looked for."""

import os
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import cache_folder
from topk_plugin.studiogan.git import GitError, git

# The last commit upstream; the adapter was written against it.
KNOWN_COMMIT = "947b35e9835b67860fdce44d337f6d7fee7c8db3"
SHORT_COMMIT = KNOWN_COMMIT[:7]

# No other project has all of these side by side in one folder.
MODULES = ("main.py", "config.py", "loader.py", "worker.py")


def is_source_folder(folder: Path) -> bool:
    """Whether ``folder`` is the ``src`` of a StudioGAN checkout."""
    return all((folder / name).is_file() for name in MODULES)


def source_folder(checkout: Path) -> Path:
    """The folder of StudioGAN's modules, ``checkout/src``.

    Raises:
        UserError: ``checkout`` is no StudioGAN checkout.
    """
    source = checkout / "src"
    if is_source_folder(source):
        return source
    if not checkout.is_dir():
        found = "there is no such folder"
    else:
        found = f"src/{next(n for n in MODULES if not (source / n).is_file())} is missing"
    raise UserError(
        f"{checkout} is no StudioGAN checkout ({found}); give the folder of a clone of "
        "PyTorch-StudioGAN, or get one by `topk-plugin studiogan clone`"
    )


def default_checkout() -> Path:
    """Where ``topk-plugin studiogan clone`` puts a checkout."""
    return cache_folder() / "PyTorch-StudioGAN"


def find_checkout() -> Path | None:
    """The checkout that the user has named or cloned: ``$STUDIOGAN_ROOT``, else the default one.

    None without either. What ``$STUDIOGAN_ROOT`` names is not looked at:
    :func:`source_folder` does that.
    """
    named = os.environ.get("STUDIOGAN_ROOT")
    if named:
        return Path(named).expanduser()
    default = default_checkout()
    return default if default.is_dir() else None


def commit_of(checkout: Path) -> str | None:
    """The commit that is checked out, in full; None where git can't tell, as in an unpacked zip."""
    try:
        top, commit = git("-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD").splitlines()
    except GitError:
        return None
    # An unpacked zip may lie inside of another repository, whose commit would say nothing.
    return commit if Path(top).resolve() == checkout.resolve() else None
