"""The packages that StudioGAN imports."""

import importlib.util

from topk_plugin.base.extras import TRAIN, install

# Name in an import -> name in the package index. All but ninja are imported at StudioGAN's start;
# torch runs ninja to build StyleGAN's operators. wandb is not among them: TensorBoard stands in.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "h5py": "h5py",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "kornia": "kornia",
    "matplotlib": "matplotlib",
    "seaborn": "seaborn",
    "requests": "requests",
    "ninja": "ninja",
}

REMEDY = install("studiogan")


def missing_packages() -> list[str]:
    """Those, and of the adapter's own, that this Python does not find, as the index names them."""
    needed = PACKAGES | TRAIN
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
