"""The conditional contrastive (2C) loss of ContraGAN."""

import torch
from torch import Tensor

from topk_plugin.engine.losses.similarity import cosine_similarities


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
