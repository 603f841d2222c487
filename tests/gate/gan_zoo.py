"""Small random GANs and losses in float64, for the oracle tests."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3
Z_DIM = 5


class TinyGenerator(nn.Module):
    """Latents and classes -> [N, 2, 4, 4], with or without batch norm."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.linear = nn.Linear(Z_DIM + 4, 6 * 16)
        self.norm = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.conv = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.linear(torch.cat([z, self.embed(labels)], 1)).view(-1, 6, 4, 4)
        return torch.tanh(self.conv(F.relu(self.norm(h))))


class TinyCritic(nn.Module):
    """Images and classes -> logits, with the conditional heads of the field."""

    def __init__(self, conditioning: str) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.adv = nn.Linear(8, 1)
        self.classify = nn.Linear(8, CLASSES)
        self.project = nn.Embedding(CLASSES, 8)
        self.embed = nn.Linear(8, 6)
        self.proxy = nn.Embedding(CLASSES, 6)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        h = F.leaky_relu(self.conv(x), 0.2).sum(dim=(2, 3))
        adv = self.adv(h).squeeze(1)
        if self.conditioning == "projection":
            adv = adv + (self.project(labels) * h).sum(1)
        return {
            "adv_output": adv,
            "cls_output": self.classify(h),
            "embed": F.normalize(self.embed(h), dim=1),
            "proxy": F.normalize(self.proxy(labels), dim=1),
        }


# Each loss is a mean over the batch of a function of one logit, so that a mean over fewer samples
# is the loss of those samples alone.
GENERATOR_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": lambda logits: -logits,
    "logistic": lambda logits: F.softplus(-logits),
    "least_square": lambda logits: 0.5 * (logits - 1) ** 2,
    "wasserstein": lambda logits: -logits,
}


def contrastive(embed: Tensor, proxy: Tensor, labels: Tensor) -> Tensor:
    """2C loss by loops over pairs; couples the samples of a batch."""
    n = len(labels)
    losses = []
    for i in range(n):
        own = torch.exp((embed[i] * proxy[i]).sum())
        pairs = {j: torch.exp((embed[i] * embed[j]).sum()) for j in range(n) if j != i}
        positive = own + sum(v for j, v in pairs.items() if labels[j] == labels[i])
        losses.append(-torch.log(positive / (own + sum(pairs.values()))))
    return torch.stack(losses).mean()


def generator_loss(adversarial: str, conditioning: str, out: dict, labels: Tensor) -> Tensor:
    loss = GENERATOR_LOSSES[adversarial](out["adv_output"]).mean()
    if conditioning == "classifier":
        loss = loss + 0.7 * F.cross_entropy(out["cls_output"], labels)
    elif conditioning == "contrastive":
        loss = loss + 0.7 * contrastive(out["embed"], out["proxy"], labels)
    return loss


@dataclass
class Batch:
    generator: TinyGenerator
    critic: TinyCritic
    z: Tensor
    labels: Tensor

    def generator_gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.generator.parameters()])


def make_batch(seed: int, n: int, conditioning: str = "none", *, batch_norm: bool = True) -> Batch:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = TinyGenerator(batch_norm and n > 1).double()
        critic = TinyCritic(conditioning).double()
        z = torch.randn(n, Z_DIM, dtype=torch.float64)
        labels = torch.randint(0, CLASSES, (n,))
    return Batch(generator, critic, z, labels)
