"""The data-to-data cross-entropy (D2D-CE) of ReACGAN."""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.engine.keys.key import Key, When
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.conditional_loss import (
    EMBEDDING,
    NORMALISED,
    TEMPERATURE,
    WEIGHT,
    ConditionalLoss,
)
from topk_plugin.engine.methods.contrastive import (
    EmbeddingHead,
    check_batch,
    joined_embeddings,
)
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.methods.projection import CONDITIONING
from topk_plugin.engine.methods.similarity import cosine_similarities


def data_to_data_cross_entropy(
    embed: Tensor, proxy: Tensor, label: Tensor, *, temperature: float, margin: float
) -> Tensor:
    """D2D-CE (Kang et al. 2021, arXiv 2111.01118) as StudioGAN computes it, averaged.

    For each sample i, with cosine similarities, all divided by ``temperature``::

        attraction = max(margin - similarity to the own class proxy, 0)
        repulsion of j = max(similarity to sample j - (1 - margin), 0)
        loss = attraction + log(exp(-attraction) + sum over j of exp(repulsion of j - m))

    where j runs over the samples of other classes. The paper has m = 0. StudioGAN makes m the
    largest similarity to sample j less (1 - margin) over all j of the batch but i, before the cut
    at 0 and as a constant to the gradient; it does not take m back from the first exponential.

    Args:
        embed: [N, D] with N of at least 2, floating point; half precisions are raised to float32.
        proxy: [N, D], the proxy of each sample's class.
        label: int64 [N].
        temperature: above 0.
        margin: m_p, the similarity to the proxy that is enough.

    Returns:
        A scalar.

    Raises:
        ValueError: ``temperature`` is not above 0, or there is one sample only.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; allowed: above 0")
    if len(label) < 2:
        raise ValueError("D2D-CE compares the samples of a batch; it needs at least 2")
    with_others, with_proxy = cosine_similarities(embed, proxy)
    exceeding = (with_others - (1 - margin)) / temperature
    same = torch.eye(len(label), dtype=torch.bool, device=label.device)
    largest = exceeding.detach().masked_fill(same, float("-inf")).amax(1, keepdim=True)
    own_class = label[:, None] == label[None, :]  # the sample itself included
    repulsion = (F.relu(exceeding) - largest).masked_fill(own_class, float("-inf"))
    attraction = F.relu((margin - with_proxy) / temperature)
    exponents = torch.cat([-attraction[:, None], repulsion], dim=1)
    return (attraction + exponents.logsumexp(1)).mean()


def _term(settings: Settings) -> ConditionalLoss:
    loss = settings.LOSS
    return ConditionalLoss(
        settings,
        lambda out: data_to_data_cross_entropy(
            *joined_embeddings(out), temperature=loss.temperature, margin=loss.m_p
        ),
    )


_MARGIN: Final = Key(
    "LOSS",
    "m_p",
    None,
    Number(above=0.0, at_most=1.0),
    needed=True,
    about="similarity to the class proxy that is enough",
)

DATA_TO_DATA: Final = Method(
    "D2DCE",
    on=When("MODEL", "d_cond_mtd", ("D2DCE",)),
    term=_term,
    keys=(CONDITIONING, WEIGHT, NORMALISED, EMBEDDING, TEMPERATURE, _MARGIN),
    check=check_batch,
    head=EmbeddingHead,
)
