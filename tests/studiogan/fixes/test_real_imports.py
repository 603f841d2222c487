"""Today's libraries and the real StudioGAN's imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.studiogan

ROOT = Path(__file__).parents[3]

# Not for StudioGAN's own use: they need TensorFlow, or a package that is on no index.
LEFT_OUT = {"metrics.ins_tf13", "sync_batchnorm.unittest"}

IMPORT_ALL = """
import importlib, sys
from pathlib import Path
source = Path(sys.argv[1])
sys.path.insert(0, str(source))
sys.modules["wandb"] = None  # not installed
from topk_plugin.studiogan.activation import activate
activate(source)
for name in sys.argv[2:]:
    importlib.import_module(name)
from topk_plugin.studiogan.wandb_bridge import bridge
assert sys.modules["worker"].wandb is sys.modules["loader"].wandb is bridge()
assert sys.modules["wandb"] is None
"""


def test_every_module_can_be_imported_without_wandb(studiogan_checkout: Path) -> None:
    source = studiogan_checkout / "src"
    files = [path.relative_to(source) for path in source.rglob("*.py")]
    names = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    programs = {"main", "evaluate"}
    assert {"loader", "utils.style_ops.conv2d_gradfix", "metrics.fid"} <= names
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, source, *sorted(names - LEFT_OUT - programs)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
