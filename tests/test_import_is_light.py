"""`import topk_plugin` brings torch and nothing heavier."""

import subprocess
import sys

HEAVY = ["torchvision", "torch_fidelity", "sklearn", "h5py", "tensorboard", "matplotlib", "scipy"]


def test_import_brings_torch_only() -> None:
    code = (
        "import sys, topk_plugin; "
        f"print([m for m in {[*HEAVY, 'yaml', 'tqdm', 'PIL', 'topk_plugin.engine']!r} "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # torch itself may bring some of these; the plugin must add none
    plain = subprocess.run(
        [sys.executable, "-c", code.replace("import sys, topk_plugin", "import sys, torch")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == plain.stdout
