"""The packages that StudioGAN imports."""

import importlib.util

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

REMEDY = "pip install 'topk-plugin[studiogan]' (in a checkout: pip install -e '.[studiogan]')"


def missing_packages() -> list[str]:
    """Those that this Python does not find, by their names in the package index."""
    return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
