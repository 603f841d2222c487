"""Cosine similarities of a batch's embeddings, for the contrastive losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-8


def cosine_similarities(embed: Tensor, proxy: Tensor) -> tuple[Tensor, Tensor]:
    """Of every embedding with all embeddings, and with its own proxy.

    Args:
        embed: [N, D], floating point; half precisions are raised to float32.
        proxy: [N, D], the proxy of each sample's class.

    Returns:
        [N, N], and [N]. A vector shorter than 1e-8 counts as one of that length.
    """
    precise = torch.promote_types(embed.dtype, torch.float32)
    embed = F.normalize(embed.to(precise), dim=1, eps=SHORTEST)
    proxy = F.normalize(proxy.to(precise), dim=1, eps=SHORTEST)
    # Autocast would round the similarities to half precision.
    with torch.autocast(embed.device.type, enabled=False):
        with_others = embed @ embed.t()
    return with_others, (embed * proxy).sum(1)
