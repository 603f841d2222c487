"""EfficientNet-Lite0 as torch-fidelity sees it: a feature extractor that installs with pip.

Distances in its features are called by its name, never FID: that is Inception's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from topk_plugin.evaluation.efficientnet_lite0 import WEIGHTS_SHA256, load_efficientnet_lite0

INPUT_SIZE = 128
"""Pixels to which images are resized, see docs/evaluation.md for the choice."""


class ImagenetExtractor(FeatureExtractorBase):
    """Pooled features [N, 1280] and the logits [N, 1000] of ImageNet's classes.

    The signature is torch-fidelity's, so the class can be given to its
    ``register_feature_extractor`` as it is.

    Args:
        name: any.
        features_list: the layers that are wanted.
        input_size: side in pixels of the square to which images are resized (bicubic,
            antialiased).

    Raises:
        UserError: the weights are not installed, or are others than the published ones.
    """

    POOLED = "pooled"
    LOGITS = "logits"

    def __init__(
        self, name: str, features_list: list[str], input_size: int = INPUT_SIZE, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.input_size = input_size
        self.network = load_efficientnet_lite0().to(memory_format=torch.channels_last)

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the features beside the image."""
        return {
            "network": "EfficientNet-Lite0",
            "weights": f"efficientnet-lite0-{WEIGHTS_SHA256[:8]}.pth",
            "input_size": self.input_size,
            "resize": "bicubic, antialiased",
        }

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The names of the layers."""
        return ImagenetExtractor.POOLED, ImagenetExtractor.LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Logits for the classifier score ("isc"), pooled features for the others."""
        return ImagenetExtractor.LOGITS if metric == "isc" else ImagenetExtractor.POOLED

    @staticmethod
    def can_be_compiled() -> bool:
        """Not tried."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, 3, S, S] -> the requested layers, float32 [N, D] each."""
        x = images.float() / 127.5 - 1
        side = (self.input_size, self.input_size)
        if x.shape[2:] != side:
            x = F.interpolate(x, size=side, mode="bicubic", antialias=True)
        features, logits = self.network(x.contiguous(memory_format=torch.channels_last))
        layers = {self.POOLED: features, self.LOGITS: logits}
        return tuple(layers[layer] for layer in self.features_list)
