"""The last layers of every discriminator: from features to a score and what goes with labels."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.layers import Layers

CONDITIONINGS: Final = ("W/O", "PD", "AC", "2C", "D2DCE")


class ScoringNetwork(nn.Module):
    """A network that ends in a score, under StudioGAN's names and in its order of layers.

    The layers belong to the network itself and not to a module of their own, because StudioGAN's
    state_dict names them so.

    Args:
        num_classes: labels are 0 .. num_classes - 1.
        conditioning: how labels enter: "W/O" (not at all), "PD" (projection, arXiv 1802.05637),
            "AC" (auxiliary classifier, arXiv 1610.09585), "2C" (conditional contrastive, arXiv
            2006.12681) or "D2DCE" (data-to-data cross-entropy, arXiv 2111.01118).
        embed_dim: length of the embedding; needed with "2C" and "D2DCE" only.
        normalize_embed: scale embeddings and proxies to unit length; with "AC" the features.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    def __init__(
        self, *, num_classes: int, conditioning: str, embed_dim: int | None, normalize_embed: bool
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise ValueError(
                f"conditioning is {conditioning!r}; allowed: {', '.join(CONDITIONINGS)}"
            )
        self.num_classes = num_classes
        self.conditioning = conditioning
        self.embed_dim = embed_dim
        self.normalize_embed = normalize_embed

    def add_scoring_layers(self, features: int, layers: Layers) -> None:
        """Make the layers behind ``features`` features; called when all others are made."""
        self.linear1 = layers.linear(features, 1)
        if self.conditioning == "AC":
            self.linear2 = layers.linear(features, self.num_classes, bias=False)
        elif self.conditioning == "PD":
            self.embedding = layers.embedding(self.num_classes, features)
        elif self.conditioning in ("2C", "D2DCE"):
            if self.embed_dim is None:
                raise ValueError(
                    f"embed_dim is None; conditioning {self.conditioning!r} needs its length"
                )
            self.linear2 = layers.linear(features, self.embed_dim)
            self.embedding = layers.embedding(self.num_classes, self.embed_dim)

    def score(self, h: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The outputs for features ``h`` [N, features] and ``labels`` int64 [N].

        Returns:
            "adv_output" [N] (logits, higher is more real), "h" [N, features] (of unit length with
            "AC" and ``normalize_embed``), "label" [N] (the labels given); with "AC" also
            "cls_output" [N, num_classes] (logits), with "2C" and "D2DCE" "embed" and "proxy",
            both [N, embed_dim].
        """
        adv_output = self.linear1(h).squeeze(1)
        outputs = {"h": h, "adv_output": adv_output, "label": labels}
        if self.conditioning == "AC":
            # StudioGAN means to scale the classifier's rows as well, but drops the result.
            outputs["h"] = F.normalize(h, dim=1) if self.normalize_embed else h
            outputs["cls_output"] = self.linear2(outputs["h"])
        elif self.conditioning == "PD":
            outputs["adv_output"] = adv_output + (self.embedding(labels) * h).sum(1)
        elif self.conditioning in ("2C", "D2DCE"):
            embed, proxy = self.linear2(h), self.embedding(labels)
            if self.normalize_embed:
                embed, proxy = F.normalize(embed, dim=1), F.normalize(proxy, dim=1)
            outputs["embed"], outputs["proxy"] = embed, proxy
        return outputs
