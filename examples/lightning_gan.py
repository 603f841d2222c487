"""Top-k training with Lightning, by manual or automatic optimisation; its state in checkpoints.

pip install pytorch-lightning && python examples/lightning_gan.py
"""

from typing import Any

import pytorch_lightning as lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from topk_plugin import KSchedule, TopK


class ManualGAN(lightning.LightningModule):
    """Two optimisers, as Lightning's GANs have them."""

    def __init__(self, schedule: KSchedule) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
        self.topk = TopK(schedule)
        self.topk.attach(self.critic)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(n.parameters(), 1e-3) for n in (self.generator, self.critic)]

    def critic_loss(self, real: Tensor) -> Tensor:
        fake = self.generator(torch.randn(len(real), 8, device=self.device)).detach()
        return F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake)).mean()

    def generator_loss(self, count: int) -> Tensor:
        return F.softplus(-self.critic(self.generator(torch.randn(count, 8, device=self.device))))

    def training_step(self, real: Tensor, index: int) -> None:
        g_optimizer, d_optimizer = self.optimizers()
        d_optimizer.zero_grad()
        self.manual_backward(self.critic_loss(real))
        d_optimizer.step()
        g_optimizer.zero_grad()
        with self.topk.generator_step():
            self.manual_backward(self.generator_loss(len(real)).mean())
        g_optimizer.step()

    def on_train_batch_end(self, *_: Any) -> None:
        self.topk.end_step()

    def on_train_epoch_end(self) -> None:
        self.topk.end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["topk"] = self.topk.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.topk.load_state_dict(checkpoint["topk"])


class AutomaticGAN(ManualGAN):
    """Lightning runs the generator's backward itself, after the block: it is gated all the same."""

    def __init__(self, schedule: KSchedule) -> None:
        super().__init__(schedule)
        self.automatic_optimization = True
        self.d_optimizer = torch.optim.Adam(self.critic.parameters(), 1e-3)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.generator.parameters(), 1e-3)

    def on_train_batch_start(self, real: Tensor, index: int) -> None:
        self.d_optimizer.zero_grad()
        self.critic_loss(real).backward()
        self.d_optimizer.step()

    def training_step(self, real: Tensor, index: int) -> Tensor:
        with self.topk.generator_step():
            return self.generator_loss(len(real)).mean()


def main(epochs: int = 5, kind: Any = ManualGAN, schedule: KSchedule | None = None) -> TopK:
    """Train on points of a ring, and read the state of a checkpoint into a new module."""
    points = F.normalize(torch.randn(512, 2))
    module = kind(schedule or KSchedule(gamma=0.9, nu=0.75))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
    trainer.fit(module, DataLoader(points, batch_size=64, shuffle=True))
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    resumed = kind(module.topk.schedule)
    resumed.on_load_checkpoint(checkpoint)
    print(f"{kind.__name__}: k {module.topk.k} of 64; resumes at {resumed.topk.progress}")
    return module.topk


if __name__ == "__main__":
    for kind in (ManualGAN, AutomaticGAN):
        main(kind=kind)
