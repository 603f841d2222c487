"""What the critic says of images, outside of the training."""

import torch
from torch import Tensor

from topk_plugin.engine.trainer import Trainer


@torch.no_grad()
def critic_scores(trainer: Trainer, images: Tensor, labels: Tensor) -> Tensor:
    """The critic's score of each image, its state left alone.

    Args:
        trainer: whose critic.
        images: uint8 [N, 3, S, S].
        labels: int64 [N].

    Returns:
        float32 [N] on the CPU.
    """
    critic, batch = trainer.critic, trainer.config.OPTIMIZATION.batch_size
    was_training = critic.training
    critic.eval()
    scores = []
    for part, classes in zip(images.split(batch), labels.split(batch), strict=True):
        pixels = (part.to(trainer.device).float() / 127.5 - 1).contiguous(
            memory_format=torch.channels_last
        )
        scores.append(critic(pixels, classes.to(trainer.device))["adv_output"].float().cpu())
    critic.train(was_training)
    return torch.cat(scores)
