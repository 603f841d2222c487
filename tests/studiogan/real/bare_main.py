"""StudioGAN's main.py as it is, without the adapter, on a CPU.

python -m tests.studiogan.real.bare_main CHECKOUT STUDIOGAN ARGS
"""

import importlib.util
import sys
import traceback
from pathlib import Path

# by its file: this process is to be without a trace of the plugin
file = Path(__file__).parents[3] / "topk_plugin" / "studiogan" / "testing" / "in_process.py"
spec = importlib.util.spec_from_file_location("in_process", file)
assert spec is not None
assert spec.loader is not None
in_process = importlib.util.module_from_spec(spec)
spec.loader.exec_module(in_process)

source = Path(sys.argv[1]).resolve() / "src"
in_process.start_bare(source)
try:
    in_process.run_main(source, sys.argv[2:])
except IndexError as error:
    # Its way to end with `-metrics none`: no best checkpoint is there to load.
    if traceback.extract_tb(error.__traceback__)[-1].name != "load_best_model":
        raise
assert not any(name.startswith("topk_plugin") for name in sys.modules)
