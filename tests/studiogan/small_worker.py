"""Stand-ins for StudioGAN's objects: only the attributes that the plugin reads."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.studiogan.flags import DEFAULTS

CLASSES, Z_DIM, PIXELS = 3, 4, 6


def configurations(
    *,
    distributed: bool = False,
    g_cond_mtd: str = "cBN",
    d_cond_mtd: str = "PD",
    total_steps: int = 100,
    g_updates_per_step: int = 1,
    acml_steps: int = 1,
    **loss: Any,
) -> SimpleNamespace:
    """StudioGAN's ``Configurations`` with top-k on, gamma 0.9, nu 0.5 and the given LOSS flags."""
    flags = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5, **DEFAULTS, **loss}
    return SimpleNamespace(
        LOSS=SimpleNamespace(**flags),
        MODEL=SimpleNamespace(g_cond_mtd=g_cond_mtd, d_cond_mtd=d_cond_mtd),
        OPTIMIZATION=SimpleNamespace(
            total_steps=total_steps,
            g_updates_per_step=g_updates_per_step,
            acml_steps=acml_steps,
        ),
        RUN=SimpleNamespace(distributed_data_parallel=distributed),
    )


class Critic(nn.Module):
    """[N, PIXELS] and classes -> a dict of outputs, called as StudioGAN calls its critic."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, 8)
        self.score = nn.Linear(8, 1)

    def forward(self, images: Tensor, label: Tensor, eval: bool = False) -> dict[str, Tensor]:
        h = torch.tanh(self.hidden(images))
        return {"adv_output": self.score(h).squeeze(1), "label": label, "h": h}


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(Z_DIM, 8), nn.Tanh(), nn.Linear(8, PIXELS))

    def forward(self, z: Tensor, label: Tensor, eval: bool = False) -> Tensor:
        return self.net(z)


def worker(*, adv_loss: str = "hinge", apply_lo: bool = False, **optimization: Any) -> Any:
    """StudioGAN's WORKER, with a small float64 GAN of the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, critic = Generator().double(), Critic().double()
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.05)
    settings = {"batch_size": 8, "g_updates_per_step": 1, **optimization}
    return SimpleNamespace(
        Gen=generator,
        Dis=critic,
        LOSS=SimpleNamespace(adv_loss=adv_loss, apply_lo=apply_lo, apply_topk=True),
        MODEL=SimpleNamespace(g_cond_mtd="cBN", d_cond_mtd="PD"),
        DATA=SimpleNamespace(num_classes=CLASSES),
        RUN=SimpleNamespace(seed=0),
        OPTIMIZATION=SimpleNamespace(g_optimizer=optimizer, **settings),
        global_rank=0,
    )
