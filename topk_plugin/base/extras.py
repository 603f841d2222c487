"""What the extras of the package bring: `pip install topk-plugin` alone is the gate, on torch."""

import importlib.util

# Name in an import -> name in the package index, of what the extra "train" brings.
TRAIN = {
    "torchvision": "torchvision",
    "torch_fidelity": "torch-fidelity",
    "numpy": "numpy",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
    "h5py": "h5py",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "filelock": "filelock",
    "safetensors": "safetensors",
}


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'topk-plugin[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


def missing_for_training() -> list[str]:
    """Packages of the extra "train" that this Python does not find."""
    return [name for module, name in TRAIN.items() if importlib.util.find_spec(module) is None]


def describe_missing(user: str, packages: list[str]) -> str:
    """The sentence for packages of the extra "train" that are not installed.

    Args:
        user: what needs them.
        packages: their names in the package index.
    """
    which = f"the package {packages[0]}" if len(packages) == 1 else ", ".join(packages)
    return f"{user} needs {which}, not installed here: {install('train')}"
