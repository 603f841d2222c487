"""Training the built-in extractor: once for a data set, deterministic, in seconds to minutes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.builtin_network import SmallClassifier
from topk_plugin.evaluation.labelled_images import LabelledImages

ROTATIONS = 4
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Recipe:
    """How the extractor is trained; every field enters its fingerprint.

    The seed is fixed, and not that of a GAN run: runs that differ in their seed are to be measured
    with the same extractor.

    Attributes:
        version: raised whenever the network or this training changes.
        passes: passes over the training images; a small set gets up to ``most_passes``, until
            ``few_images`` images were seen; no set gets more than ``most_images`` images in all.
        max_shift: random translations by up to so many pixels for every 32 pixels of image side.
            Images are never mirrored: a mirrored digit is no digit.
    """

    version: int = 1
    seed: int = 0
    held_out: float = 0.1
    batch_size: int = 128
    passes: int = 6
    most_passes: int = 40
    few_images: int = 10_000
    most_images: int = 150_000
    learning_rate: float = 0.01
    weight_decay: float = 0.05
    warm_up: float = 0.25
    max_shift: int = 2

    def steps(self, n_images: int) -> int:
        """How many optimiser steps ``n_images`` training images get."""
        seen = max(self.passes * n_images, min(self.most_passes * n_images, self.few_images))
        return max(1, min(seen, self.most_images) // min(self.batch_size, n_images))


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier in eval mode on the CPU and what is known of it.

    Attributes:
        task: "classes", or "rotations" (of 0, 90, 180, 270 degrees) where there is one class only.
        accuracy: fraction of the held-out images that are classified correctly.
    """

    network: SmallClassifier
    task: str
    n_outputs: int
    accuracy: float


def train_classifier(
    data: LabelledImages, *, device: torch.device, recipe: Recipe
) -> TrainedClassifier:
    """Train on a random 90 % of ``data`` and measure the accuracy on the rest.

    No global random generator is read or moved.

    Raises:
        UserError: fewer than ten images.
    """
    if len(data.images) < FEWEST_IMAGES:
        raise UserError(
            f"{data.name} has {len(data.images)} images, the built-in feature extractor is trained "
            f"on at least {FEWEST_IMAGES}; give more images or Inception weights"
        )
    n_classes = int(data.labels.max()) + 1
    task, n_outputs = ("classes", n_classes) if n_classes > 1 else ("rotations", ROTATIONS)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the generators of all GPUs too.
        torch.default_generator.manual_seed(recipe.seed)
        network = SmallClassifier(data.images.shape[-1], n_outputs)
    network.to(device).to(memory_format=torch.channels_last)

    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.randperm(len(data.images), generator=generator)
    n_held_out = max(1, round(recipe.held_out * len(order)))
    held_out, training = order[:n_held_out], order[n_held_out:]
    labels = data.labels.to(device)
    images = data.images.to(device) if isinstance(data.images, Tensor) else data.images

    def example(index: Tensor) -> tuple[Tensor, Tensor]:
        there = index.to(device)
        chosen = images[there] if isinstance(images, Tensor) else images[index].to(device)
        if task == "classes":
            return chosen, labels[there]
        return rotated(chosen, torch.randint(ROTATIONS, (len(index),), generator=generator))

    _optimise(network, example, training, generator, recipe)
    network.eval()
    correct = 0
    with torch.no_grad():
        for chunk in held_out.split(256):
            x, y = example(chunk)
            correct += int((network(x)[1].argmax(dim=1) == y).sum())
    network.cpu()
    return TrainedClassifier(network, task, n_outputs, correct / n_held_out)


def rotated(images: Tensor, quarter_turns: Tensor) -> tuple[Tensor, Tensor]:
    """Turn image i of [N, 3, S, S] by ``quarter_turns[i]`` (int64 [N], 0..3) quarter turns.

    Returns the turned images and the quarter turns, both on the images' device.
    """
    turns = quarter_turns.to(images.device)
    every_turn = torch.stack([torch.rot90(images, k, dims=(2, 3)) for k in range(ROTATIONS)])
    return every_turn[turns, torch.arange(len(images), device=images.device)], turns


def _optimise(
    network: SmallClassifier,
    example: Callable[[Tensor], tuple[Tensor, Tensor]],
    training: Tensor,
    generator: torch.Generator,
    recipe: Recipe,
) -> None:
    """AdamW with a linear warm-up and decay, on shuffled batches of the indices ``training``."""
    batch_size = min(recipe.batch_size, len(training))
    steps = recipe.steps(len(training))
    warm_up = max(1, round(recipe.warm_up * steps))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    waiting = training[:0]
    progress = tqdm(
        range(steps), desc="training the feature extractor", delay=1, leave=False, disable=None
    )
    for step in progress:
        if len(waiting) < batch_size:
            waiting = training[torch.randperm(len(training), generator=generator)]
        index, waiting = waiting[:batch_size], waiting[batch_size:]
        rate = min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
        optimiser.param_groups[0]["lr"] = rate * recipe.learning_rate
        images, labels = example(index)
        _, logits = network(_shifted(images, generator, recipe.max_shift))
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _shifted(images: Tensor, generator: torch.Generator, max_shift: int) -> Tensor:
    """One random translation for the whole batch; the border's pixels fill the gap."""
    side = images.shape[-1]
    reach = max(1, max_shift * side // 32)
    down, right = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    # replicate padding is not implemented for uint8
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate")
    return padded[:, :, down : down + side, right : right + side]
