"""Runs StudioGAN's main.py with the adapter, without touching the checkout.

``python -m topk_plugin.studiogan.launch CHECKOUT ARGS`` is ``python CHECKOUT/src/main.py ARGS``
with the adapter. Processes that StudioGAN spawns import this module anew, under the name
``__mp_main__``, before they import anything of StudioGAN: that is where they get the adapter.
"""

import builtins
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.multiprocessing.spawn import ProcessRaisedException

import topk_plugin
from topk_plugin.base.errors import UserError
from topk_plugin.base.extras import TRAIN
from topk_plugin.studiogan.checkout import source_folder
from topk_plugin.studiogan.flags import TopKFlagError
from topk_plugin.studiogan.packages import PACKAGES, REMEDY
from topk_plugin.studiogan.refusals import refusal, refusal_in_text

# Tells spawned processes which checkout it is.
SOURCE_VARIABLE = "TOPK_PLUGIN_STUDIOGAN_SOURCE"

# Set to 1, it shows the traceback of StudioGAN's own asserts too.
TRACEBACK_VARIABLE = "TOPK_PLUGIN_TRACEBACK"

USER_ERROR = 2


def main(arguments: Sequence[str]) -> int:
    """Run StudioGAN; returns its exit status (2: the user can mend it).

    Args:
        arguments: the checkout, then StudioGAN's own arguments.
    """
    try:
        if not arguments:
            raise UserError("give a StudioGAN checkout, and after it StudioGAN's own arguments")
        run_main(Path(arguments[0]), arguments[1:])
    except (UserError, TopKFlagError) as error:
        return _fail(str(error))
    except ProcessRaisedException as error:  # it holds the text of a traceback
        name, _, said = str(error).rstrip().rpartition("\n")[2].partition(": ")
        if name in {f"{kind.__module__}.{kind.__name__}" for kind in (UserError, TopKFlagError)}:
            return _fail(said)
        sentence = _unless_asked(refusal_in_text(str(error), _source()))
        if sentence is None:
            raise
        return _fail(sentence)
    except (AssertionError, AttributeError) as error:
        sentence = _unless_asked(refusal(error, _source()))
        if sentence is None:
            raise
        return _fail(sentence)
    except ModuleNotFoundError as error:
        sentence = _missing((error.name or "").partition(".")[0])
        if sentence is None:
            raise
        return _fail(sentence)
    return 0


def run_main(checkout: Path, arguments: Sequence[str]) -> None:
    """Execute the checkout's main.py as a program, with the adapter.

    The module ``__main__`` stays the one that it is, because spawned processes import that one.

    Raises:
        UserError: it is no StudioGAN checkout, or the adapter can't work with it.
    """
    source = source_folder(checkout).resolve()
    _put_first_on_path(source)
    os.environ[SOURCE_VARIABLE] = str(source)
    _activate()
    file = str(source / "main.py")
    sys.argv = [file, *arguments]
    code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__", "__file__": file, "__builtins__": builtins})


def _put_first_on_path(source: Path) -> None:
    """The import path that ``python main.py`` would have, and this package on it."""
    if sys.flags.safe_path:  # Python has put no folder first
        sys.path.insert(0, str(source))
    else:
        sys.path[0] = str(source)
    home = str(Path(topk_plugin.__file__).parents[1])
    if home not in sys.path:  # it was found in the current folder, which was first
        sys.path.append(home)


def _activate() -> None:
    # imported here: it looks on the import path for the checkout
    from topk_plugin.studiogan.autostart import activate

    activate(_source())


def _source() -> Path:
    return Path(os.environ[SOURCE_VARIABLE])


def _unless_asked(refused: str | None) -> str | None:
    """StudioGAN's sentence; None where there is none, or the traceback is asked for."""
    if refused is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
        return None
    return f"{refused}; --traceback shows how it came to that"


def _missing(module: str) -> str | None:
    """What to do about a module that StudioGAN or the adapter imports and Python does not find."""
    if module == "pkg_resources":
        return (
            "StudioGAN imports pkg_resources, which setuptools >= 81 no longer has; leave "
            "the fix pkg_resources on (--no-fix, TOPK_PLUGIN_NO_FIX), or install setuptools<81"
        )
    if module in PACKAGES:
        return f"StudioGAN needs the package {PACKAGES[module]}, which is missing; {REMEDY}"
    if module in TRAIN:
        return f"the adapter needs the package {TRAIN[module]}, which is missing; {REMEDY}"
    return None


def _fail(sentence: str) -> int:
    print(f"topk-plugin: error: {sentence}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__mp_main__":
    _activate()
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
