"""How well a critic classifies."""

import torch
from torch import nn

from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import normalised


@torch.no_grad()
def critic_accuracy(
    critic: nn.Module, images: ImageSet, *, batch_size: int, device: torch.device
) -> float | None:
    """The share of images whose class has the critic's largest "cls_output".

    Args:
        critic: in evaluation mode, on the device.
        images: with their labels.
        batch_size: images at once.

    Returns:
        0 to 1; None for a critic that does not classify.
    """
    right = torch.zeros((), device=device)
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        labels = images.labels[rows].to(device)
        out = critic(normalised(images.images[rows].to(device)), labels)
        if "cls_output" not in out:
            return None
        right += (out["cls_output"].argmax(1) == labels).sum()
    return float(right) / len(images)
