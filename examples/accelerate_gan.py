"""Top-k training with Hugging Face Accelerate: attach to what ``prepare`` returns.

pip install accelerate && accelerate launch examples/accelerate_gan.py
"""

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from topk_plugin import KSchedule, TopK


def main(epochs: int = 5, schedule: KSchedule | None = None) -> TopK:
    """Train on points of a ring, with two batches accumulated for each update."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    points = F.normalize(torch.randn(512, 2))  # points of a ring
    generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizers = [torch.optim.Adam(network.parameters(), 1e-3) for network in (generator, critic)]
    generator, critic, g_optimizer, d_optimizer, loader = accelerator.prepare(
        generator, critic, *optimizers, DataLoader(points, batch_size=64, shuffle=True)
    )
    # One selection over all processes, if there are several.
    scope = "global" if accelerator.num_processes > 1 else "rank"
    topk = TopK(schedule or KSchedule(gamma=0.9, nu=0.75), scope=scope)
    topk.attach(critic)  # the prepared critic: the wrapper that the loop calls
    accelerator.register_for_checkpointing(topk)  # it has state_dict and load_state_dict

    for _ in range(epochs):
        for real in loader:
            with accelerator.accumulate(generator, critic):
                fake = generator(torch.randn(len(real), 8, device=accelerator.device))
                d_loss = F.softplus(-critic(real)) + F.softplus(critic(fake.detach()))
                accelerator.backward(d_loss.mean())
                d_optimizer.step()
                d_optimizer.zero_grad()
                with topk.generator_step():
                    accelerator.backward(F.softplus(-critic(fake)).mean())
                g_optimizer.step()
                g_optimizer.zero_grad()
                if accelerator.sync_gradients:  # an update, and not an accumulated batch
                    topk.end_step()
        topk.end_epoch()
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        accelerator.load_state(folder)
    accelerator.print(f"k {topk.k} of 64 after {topk.progress}")
    return topk


if __name__ == "__main__":
    main()
