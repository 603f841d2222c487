"""StudioGAN's main.py as it is, without the adapter, on a CPU.

python -m tests.studiogan.real.bare_main CHECKOUT STUDIOGAN ARGS
"""

import sys
import traceback
from pathlib import Path

from benchmarks.studiogan.process import run_main, start_bare

source = Path(sys.argv[1]).resolve() / "src"
start_bare(source)
try:
    run_main(source, sys.argv[2:])
except IndexError as error:
    # Its way to end with `-metrics none`: no best checkpoint is there to load.
    if traceback.extract_tb(error.__traceback__)[-1].name != "load_best_model":
        raise
assert not any(name.startswith("topk_plugin") for name in sys.modules)
