"""Importing this module starts the adapter: the one line that a patched StudioGAN contains.

StudioGAN's ``src/main.py`` imports it before anything else of its own. Processes that it spawns
(``-DDP``) execute the top of that file again, and so get the adapter too.
"""

import sys
from pathlib import Path

from topk_plugin.studiogan.activation import activate
from topk_plugin.studiogan.checkout import is_source_folder

__all__ = ["activate"]

for _entry in sys.path:
    if is_source_folder(Path(_entry)):
        activate(Path(_entry))
        break
else:
    print("topk-plugin: no StudioGAN on Python's path; nothing is adapted", file=sys.stderr)
