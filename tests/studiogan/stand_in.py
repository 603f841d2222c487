"""A checkout in StudioGAN's place that records how its processes were started."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Arguments, settings and modules as far as the plugin relies on them.
MAIN = """\
import argparse
import multiprocessing

import config
import loader


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("-t", "--train", action="store_true")
    parser.add_argument("-cfg", "--cfg_file", required=True)
    parser.add_argument("-save", "--save_dir", required=True)
    parser.add_argument("--start", metavar="METHOD")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    cfgs = config.Configurations(options.cfg_file)
    loader.load_worker("parent", cfgs, options.save_dir)
    if options.start:
        context = multiprocessing.get_context(options.start)
        child = context.Process(target=loader.load_worker, args=("child", cfgs, options.save_dir))
        child.start()
        child.join()
        raise SystemExit(child.exitcode)
"""

CONFIG = """\
import json
from types import SimpleNamespace


class Configurations:
    def __init__(self, cfg_file):
        self.load_base_cfgs()
        self._overwrite_cfgs(cfg_file)
        self.check_compatability()

    def _overwrite_cfgs(self, cfg_file):
        with open(cfg_file) as file:
            for name, value in json.load(file).items():
                if not hasattr(self.LOSS, name):
                    raise AttributeError(f"no attribute 'LOSS.{name}'")
                setattr(self.LOSS, name, value)

    def load_base_cfgs(self):
        self.LOSS = SimpleNamespace(apply_topk=False, topk_gamma="N/A", topk_nu="N/A", fail=False)
        self.DATA = SimpleNamespace(num_classes=3)
        self.RUN = SimpleNamespace(distributed_data_parallel=False)

    def check_compatability(self):
        if self.LOSS.fail == "assert":
            assert not self.LOSS.fail, \\
                "batch_size should be \\
                divided by 8."
        if self.LOSS.fail == "assert without words":
            assert not self.LOSS.fail
        if self.LOSS.fail:
            raise RuntimeError("a failure of its own")
"""

WORKER = """\
class WORKER:
    def sample_data_basket(self): ...
    def train_generator(self): ...
    def log_train_statistics(self): ...
    def visualize_fake_images(self): ...
    def save(self): ...
"""

LOADER = """\
import json
import sys
from pathlib import Path

import worker
from worker import WORKER


def load_worker(name, cfgs, save_dir):
    record = {
        "adapted": WORKER is not worker.WORKER,
        "flags": sorted(vars(cfgs.LOSS)),
        "arguments": sys.argv,
        "first_on_path": sys.path[0],
        "module": load_worker.__module__,
    }
    Path(save_dir, name + ".json").write_text(json.dumps(record))
"""

FILES = {"main.py": MAIN, "config.py": CONFIG, "worker.py": WORKER, "loader.py": LOADER}


@dataclass
class Finished:
    """A process that has ended, and what StudioGAN's stand-in recorded in its processes."""

    status: int
    err: str
    records: dict[str, Any]


def write_checkout(folder: Path) -> Path:
    """Make a checkout; gives its folder."""
    (folder / "src").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "src" / name).write_text(text)
    return folder


def run_python(folder: Path, *arguments: object, **environment: str) -> Finished:
    """Run Python in ``folder``, on this source tree, with every compatibility fix off.

    The stand-in needs none of them. ``folder`` gets settings (``settings.json``) unless it has
    some, and a folder ``out`` for the records.
    """
    from topk_plugin.studiogan.fixes.registry import FIXES

    settings = folder / "settings.json"
    if not settings.exists():
        settings.write_text("{}")
    (folder / "out").mkdir(exist_ok=True)
    defaults = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TOPK_PLUGIN_NO_FIX": ",".join(fix.name for fix in FIXES),
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | defaults | environment,
        capture_output=True,
        text=True,
    )
    records = {p.stem: json.loads(p.read_text()) for p in (folder / "out").glob("*.json")}
    return Finished(done.returncode, done.stderr, records)
