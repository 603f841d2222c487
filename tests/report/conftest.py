"""Runs of a training loop of one's own, with names that would be code if a page let them."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from topk_plugin import KSchedule, NoEffectWarning, RunLog, TopK, TopKMonitor

HOSTILE = "<script>document.title='owned'</script>"
STEPS, CLASSES, BATCH = 24, 3, 16


def train(folder: Path, *, lr: float = 0.05, top_k: bool = True, finish: bool = True) -> Path:
    """A loop of somebody's own: a linear GAN on 8-pixel grey images, with and without top-k."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    critic = nn.Sequential(nn.Flatten(1), nn.Linear(64, 1))

    class Conditional(nn.Module):
        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return critic(images) + labels[:, None]

    conditional = Conditional()
    optimizer = torch.optim.SGD(generator.parameters(), lr=lr)
    topk = TopK(KSchedule(0.5, 0.5, every=8))
    topk.attach(conditional, labels=1)
    monitor = TopKMonitor(topk, CLASSES)
    same = torch.randn(6, 4)
    with RunLog(folder) as log:
        settings = {"lr": lr, "total_steps": STEPS, "note": HOSTILE, "top_k": top_k}
        names = [HOSTILE, "cat", "dog"]
        log.describe(settings, metrics=["fid"], class_names=names)
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            labels = torch.arange(BATCH) % CLASSES
            with topk.generator_step():
                fakes = generator(torch.randn(BATCH, 4))
                loss = -conditional(fakes, labels).mean()
                loss.backward()
            optimizer.step()
            topk.end_step()
            monitor.update()
            if step % 2 == 0:
                if top_k:
                    monitor.log(log, step, fakes)
                log.scalars(step, {"loss/generator": loss, "speed/images_per_second": 100.0})
            if step % 8 == 0:
                log.samples(step, generator(same), columns=3)
                log.scalars(step, {"metric/fid": 100 / step + lr})
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"k never moved {HOSTILE}", NoEffectWarning, stacklevel=1)
        if finish:
            log.finish({"fid": 4.0 + lr})
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs, the second without top-k and with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(folder / "<b>gate"), train(folder / "plain", lr=0.01, top_k=False)
