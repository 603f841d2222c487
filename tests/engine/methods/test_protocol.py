"""Every part of the protocol, by a method that uses them all."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import REGULARIZERS, gate_of, tiny_config, tiny_images
from topk_plugin.engine.checkpoint import Checkpoint, RunProgress
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.keys.key import When, switch
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods import registry
from topk_plugin.engine.methods.method import CriticStep, Gan, GeneratorStep, Method, Needs, Term
from topk_plugin.engine.trainer import Trainer

ON = {"LOSS": {"apply_everything": True}}


class Everything(Term):
    """Notes what happens; has a second critic with an optimiser of its own, and state."""

    needs = Needs(real_in_generator_update=True)

    def __init__(self, settings: Settings) -> None:
        self.happened: list[str] = []
        self.seen: list[Tensor] = []

    def setup(self, gan: Gan) -> None:
        self.gan = gan
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.second = nn.Linear(3 * 32 * 32, 1)
        self.optimizer = torch.optim.Adam(self.second.parameters(), 1e-3)

    def order(self, generator: torch.Generator, count: int) -> Tensor:
        return torch.randint(count, (count,), generator=generator)

    def view(self, images: Tensor) -> Tensor:
        self.happened.append("view")
        return images * 0.5

    def critic_logits(self, logits: Tensor, out: dict[str, Any]) -> Tensor:
        return logits * 2

    def generator_logits(self, logits: Tensor, out: dict[str, Any]) -> Tensor:
        return logits * 3

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        torch.testing.assert_close(step.real_logits, step.real_out["adv_output"] * 2)
        assert torch.equal(self.gan.images.labels[step.real.indices], step.real.labels)
        self.batch = step.real.images
        step.logged["loss/everything"] = step.real_out["h"].mean()
        yield 0 * step.logged["loss/everything"]

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        torch.testing.assert_close(step.logits, step.out["adv_output"] * 3)
        assert step.real is not None
        yield 0 * step.look(step.real.images, step.real.labels)["h"].mean()

    @contextmanager
    def around_generator_update(self) -> Iterator[None]:
        self.happened.append("before the generator's update")
        yield
        self.happened.append("after it")

    def after_critic_update(self) -> None:
        self.optimizer.zero_grad()
        self.second(self.batch.flatten(1)).square().mean().backward()
        self.optimizer.step()

    def after_generator_update(self, steps: int) -> None:
        self.happened.append(f"after step {steps}")

    def end_epoch(self) -> None:
        self.happened.append("epoch")

    def scalars(self) -> dict[str, Tensor]:
        return {"everything/weight": self.second.weight.abs().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"second": self.second.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Any, device: torch.device) -> None:
        self.second.load_state_dict(state["second"])
        self.optimizer.load_state_dict(state["optimizer"])


def frozen_first_block(critic: nn.Module, settings: Settings) -> nn.Module:
    critic.blocks[0].requires_grad_(False)
    return critic


def brighter(generator: nn.Module, settings: Settings) -> nn.Module:
    generator.brightness = nn.Parameter(torch.tensor(0.25))
    generator.register_forward_hook(lambda module, args, images: images + module.brightness)
    return generator


def first_two_classes(images: ImageSet, settings: Settings) -> ImageSet:
    kept = images.labels < 2
    return replace(images, images=images.images[kept], labels=images.labels[kept])


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Method(
        "everything",
        on=When("LOSS", "apply_everything"),
        term=Everything,
        keys=(switch("LOSS", "apply_everything", ours=True),),
        change_critic=frozen_first_block,
        change_generator=brighter,
        choose_images=first_two_classes,
    )
    monkeypatch.setattr(registry, "_registered", [method])


def trainer_of(count: int = 96) -> Trainer:
    return Trainer(tiny_config(ON), tiny_images(count), seed=0, device=torch.device("cpu"))


def flat(state: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in state.values() if isinstance(state, dict) else state:
        if isinstance(value, Tensor):
            found.append(value.clone())
        elif isinstance(value, dict | list):
            found += flat(value)
    return found


def test_each_part_acts_when_it_is_due() -> None:
    trainer = trainer_of()
    assert trainer.stream.steps_per_epoch == 3  # of 96 images 48 are left, 16 a step
    term = trainer.terms["everything"]
    losses = trainer.step()
    assert "loss/everything" in losses
    # two updates of the critic see real and fake, the generator's fakes and reals
    assert term.happened == [
        *["view"] * 4,
        "before the generator's update",
        *["view"] * 2,
        "after it",
        "after step 0",
    ]
    term.happened.clear()
    trainer.step()
    assert term.happened[-1] == "epoch"
    assert trainer.scalars()["everything/weight"] == term.second.weight.abs().mean()


def test_frozen_parts_stay_and_belong_to_no_optimiser() -> None:
    trainer = trainer_of()
    frozen = [p.clone() for p in trainer.critic.blocks[0].parameters()]
    for _ in range(2):
        trainer.step()
    assert all(map(torch.equal, frozen, trainer.critic.blocks[0].parameters()))
    assert not any(p.requires_grad for p in trainer.critic.blocks[0].parameters())
    optimised = {id(p) for group in trainer.d_optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in trainer.critic.blocks[0].parameters()}
    assert trainer.generator.brightness != 0.25


def test_resuming_is_exact() -> None:
    straight, stopped = trainer_of(), trainer_of()
    for _ in range(5):
        straight.step()
    for _ in range(3):
        stopped.step()
    buffer = io.BytesIO()
    torch.save(stopped.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer_of()
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(2):
        resumed.step()
    pairs = zip(flat(straight.state_dict()), flat(resumed.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_changed_generator_is_what_a_checkpoint_samples_from(tmp_path) -> None:
    trainer = trainer_of()
    trainer.step()
    checkpoint = Checkpoint(
        path=tmp_path,
        config=trainer.config,
        seed=0,
        precision="fp32",
        data={},
        progress=RunProgress(),
        trainer=trainer.state_dict(),
    )
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 2
    expected = trainer.sampler()(z, labels)
    found = checkpoint.sampler(use_ema=True)(z, labels)
    torch.testing.assert_close(found, expected)
    assert found.amax() > 1  # beyond tanh: with the brightness


def test_the_gate_stands_in_front_of_the_views() -> None:
    """So the gradient that it zeroes is that of whole samples, whatever a view does to them."""
    config = tiny_config(ON, REGULARIZERS["DiffAugment"], {"LOSS": {"topk_every": 1}})
    trainer = Trainer(config, tiny_images(96), seed=0, device=torch.device("cpu"))
    for _ in range(2):
        trainer.step()
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple[Any, ...], images: Tensor) -> None:
        images.register_hook(seen.append)

    trainer.generator.register_forward_hook(watch)
    trainer._train_generator()
    assert torch.equal((seen[0] != 0).flatten(1).any(1), gate_of(trainer).stats.mask)
    assert gate_of(trainer).stats.mask.sum() == 2
