"""Getting a StudioGAN checkout."""

import tempfile
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import unwritable
from topk_plugin.studiogan.checkout import KNOWN_COMMIT, SHORT_COMMIT, source_folder
from topk_plugin.studiogan.git import GitError, git

SOURCE = "https://github.com/POSTECH-CVLab/PyTorch-StudioGAN.git"


def clone(target: Path, source: str = SOURCE) -> None:
    """Clone StudioGAN into ``target``, at the commit that the adapter was written against.

    ``target`` appears when all is there; a clone that fails leaves nothing behind.

    Args:
        target: a folder that does not exist yet, or is empty.
        source: a URL or a path that git can clone.

    Raises:
        UserError: ``target`` holds something or can't be written, or the clone has failed.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        what = "is not empty" if target.is_dir() else "is a file"
        raise UserError(f"{target} {what}; give `topk-plugin studiogan clone` another folder")
    place = target.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as temporary:
            checkout = Path(temporary) / "checkout"
            _clone(source, checkout)
            checkout.rename(place)
    except OSError as error:
        raise unwritable(target, error) from error


def _clone(source: str, checkout: Path) -> None:
    try:
        git("clone", "--quiet", "--no-checkout", "--", source, str(checkout))
        git("-C", str(checkout), "checkout", "--quiet", "--detach", KNOWN_COMMIT)
    except GitError as error:
        raise UserError(
            f"{source} can't be cloned at commit {SHORT_COMMIT} ({error}); get a clone some other "
            "way, check that commit out, and set STUDIOGAN_ROOT to its folder"
        ) from error
    source_folder(checkout)
