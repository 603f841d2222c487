"""The conditional contrastive (2C) loss of ContraGAN."""

from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import When
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.conditional_loss import (
    EMBEDDING,
    NORMALISED,
    TEMPERATURE,
    WEIGHT,
    ConditionalLoss,
)
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.methods.projection import CONDITIONING
from topk_plugin.engine.methods.similarity import cosine_similarities
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Head, Outputs
from topk_plugin.gate import ranks


class EmbeddingHead(Head):
    """Adds "embed" and "proxy" (the embedding of the label), both [N, MODEL.d_embed_dim]."""

    compared: ClassVar[tuple[str, ...]] = ("adv_output", "embed")

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        super().add_layers(critic, features, layers)
        model = self.settings.MODEL
        if model.d_embed_dim is None:
            raise ValueError(
                f"d_embed_dim is None; d_cond_mtd {model.d_cond_mtd!r} needs its length"
            )
        critic.linear2 = layers.linear(features, model.d_embed_dim)
        critic.embedding = layers.embedding(self.settings.DATA.num_classes, model.d_embed_dim)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        outputs = super().outputs(critic, h, labels)
        embed, proxy = critic.linear2(h), critic.embedding(labels)
        if self.settings.MODEL.normalize_d_embed:
            embed, proxy = F.normalize(embed, dim=1), F.normalize(proxy, dim=1)
        return outputs | {"embed": embed, "proxy": proxy}


def check_batch(settings: Settings) -> None:
    """Refuse batches of one sample, of which nothing can be contrasted."""
    if settings.OPTIMIZATION.batch_size < 2:
        raise UserError(
            f"MODEL.d_cond_mtd {settings.MODEL.d_cond_mtd!r} contrasts the samples of a batch and "
            "needs OPTIMIZATION.batch_size of at least 2; it is "
            f"{settings.OPTIMIZATION.batch_size}"
        )


def conditional_contrastive_loss(
    embed: Tensor, proxy: Tensor, label: Tensor, temperature: float
) -> Tensor:
    """2C loss (Kang & Park 2020, arXiv 2006.12681, eq. 8), averaged over the batch.

    For each sample: minus the logarithm of the share that its own class proxy and the other
    samples of its class have in the sum of exp(cosine similarity / temperature) over its proxy
    and all other samples.

    Args:
        embed: [N, D], floating point; half precisions are raised to float32.
        proxy: [N, D], the proxy of each sample's class.
        label: int64 [N].
        temperature: above 0.

    Returns:
        A scalar.

    Raises:
        ValueError: ``temperature`` is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; allowed: above 0")
    with_others, with_proxy = cosine_similarities(embed, proxy)
    with_others, with_proxy = with_others / temperature, with_proxy[:, None] / temperature
    same = torch.eye(len(label), dtype=torch.bool, device=label.device)
    other_class = label[:, None] != label[None, :]
    excluded = float("-inf")
    everything = torch.cat([with_proxy, with_others.masked_fill(same, excluded)], dim=1)
    own_class = torch.cat(
        [with_proxy, with_others.masked_fill(same | other_class, excluded)], dim=1
    )
    return (everything.logsumexp(1) - own_class.logsumexp(1)).mean()


def joined_embeddings(out: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, proxies and labels of all processes' samples, the first two with gradient."""
    embed, proxy = ranks.gather_rows(out["embed"]), ranks.gather_rows(out["proxy"])
    return embed, proxy, ranks.gather_batch(out["label"])


def _term(settings: Settings) -> ConditionalLoss:
    temperature: float = settings.LOSS.temperature
    return ConditionalLoss(
        settings,
        lambda out: conditional_contrastive_loss(*joined_embeddings(out), temperature),
    )


CONTRASTIVE: Final = Method(
    "2C",
    on=When("MODEL", "d_cond_mtd", ("2C",)),
    term=_term,
    keys=(CONDITIONING, WEIGHT, NORMALISED, EMBEDDING, TEMPERATURE),
    check=check_batch,
    head=EmbeddingHead,
)
