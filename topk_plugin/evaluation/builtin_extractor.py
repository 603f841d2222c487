"""The built-in extractor as torch-fidelity sees it, and its cache of trained weights."""

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from topk_plugin.base.files import atomic_write, cache_folder
from topk_plugin.evaluation.builtin_network import GRID, WIDTHS, SmallClassifier
from topk_plugin.evaluation.builtin_training import Recipe, train_classifier
from topk_plugin.evaluation.labelled_images import LabelledImages


class BuiltinExtractor(FeatureExtractorBase):
    """Features and logits of a ``SmallClassifier`` read from a file of ``builtin_weights``.

    The signature is torch-fidelity's, so the class can be given to its
    ``register_feature_extractor`` as it is.

    Attributes:
        facts: what is known of the training: "task", "held_out_accuracy", "trained_on",
            "recipe_fingerprint".
    """

    PENULTIMATE = "penultimate"
    LOGITS = "logits"

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | Path,
        **_: Any,
    ) -> None:
        super().__init__(name, features_list)
        saved = torch.load(feature_extractor_weights_path, map_location="cpu", weights_only=True)
        self.network = SmallClassifier(saved["image_size"], saved["n_outputs"])
        self.network.load_state_dict(saved["state_dict"])
        self.network.to(memory_format=torch.channels_last)
        self.facts: dict[str, Any] = saved["facts"]
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the layers."""
        return BuiltinExtractor.PENULTIMATE, BuiltinExtractor.LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Logits for the classifier score ("isc"), penultimate features for the others."""
        return BuiltinExtractor.LOGITS if metric == "isc" else BuiltinExtractor.PENULTIMATE

    @staticmethod
    def can_be_compiled() -> bool:
        """Compiling takes longer than the network does."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, 3, S, S] -> the requested layers, float32 [N, D] each."""
        features, logits = self.network(images)
        layers = {self.PENULTIMATE: features, self.LOGITS: logits}
        return tuple(layers[layer] for layer in self.features_list)


def recipe_fingerprint(data: LabelledImages, recipe: Recipe) -> str:
    """SHA-256 (hex) of all that decides the weights: data, architecture, training."""
    decides = {
        "data": data.fingerprint(),
        "architecture": {"widths": WIDTHS, "grid": GRID},
        "recipe": asdict(recipe),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def builtin_extractor(
    data: LabelledImages, *, device: torch.device, recipe: Recipe | None = None
) -> BuiltinExtractor:
    """The extractor trained on ``data``: from the cache, else trained now and cached.

    The file is ``cache_folder()/extractors/<fingerprint>.pt``. A file that can't be read is
    replaced, with a warning.

    Raises:
        UserError: too few images to train on, or the cache folder can't be written.
    """
    recipe = Recipe() if recipe is None else recipe
    fingerprint = recipe_fingerprint(data, recipe)
    path = cache_folder() / "extractors" / f"{fingerprint}.pt"
    if path.exists():
        try:
            return _read(path)
        # A damaged file makes torch.load raise nearly anything.
        except Exception as error:
            warnings.warn(
                f"the cached extractor {path} can't be read ({type(error).__name__}): "
                "it is trained again",
                stacklevel=2,
            )
    trained = train_classifier(data, device=device, recipe=recipe)
    saved = {
        "image_size": data.images.shape[-1],
        "n_outputs": trained.n_outputs,
        "state_dict": trained.network.state_dict(),
        "facts": {
            "task": trained.task,
            "held_out_accuracy": trained.accuracy,
            "trained_on": f"{data.name} ({len(data.images)} images)",
            "recipe_fingerprint": fingerprint,
        },
    }
    with atomic_write(path) as temporary:
        torch.save(saved, temporary)
    return _read(path)


def weights_digest(extractor: BuiltinExtractor) -> str:
    """SHA-256 (hex) of the weights themselves.

    The same recipe gives slightly other weights on another machine, and then other metric values.
    """
    digest = hashlib.sha256()
    for name, value in extractor.network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> BuiltinExtractor:
    layers = list(BuiltinExtractor.get_provided_features_list())
    return BuiltinExtractor("topk-plugin-builtin", layers, path)
