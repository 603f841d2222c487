"""The conditional contrastive (2C) loss of ContraGAN."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    precise = torch.promote_types(embed.dtype, torch.float32)
    embed = F.normalize(embed.to(precise), dim=1, eps=1e-8)
    proxy = F.normalize(proxy.to(precise), dim=1, eps=1e-8)
    with_proxy = (embed * proxy).sum(1, keepdim=True) / temperature
    # Autocast would round the similarities to half precision.
    with torch.autocast(embed.device.type, enabled=False):
        with_others = embed @ embed.t() / temperature
    same = torch.eye(len(label), dtype=torch.bool, device=label.device)
    other_class = label[:, None] != label[None, :]
    excluded = float("-inf")
    everything = torch.cat([with_proxy, with_others.masked_fill(same, excluded)], dim=1)
    own_class = torch.cat(
        [with_proxy, with_others.masked_fill(same | other_class, excluded)], dim=1
    )
    return (everything.logsumexp(1) - own_class.logsumexp(1)).mean()
