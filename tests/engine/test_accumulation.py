"""LOSS.topk_accumulation 'effective' in the trainer: one selection over all micro-batches."""

import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.engine.test_trainer import assert_same, whole_state
from tests.engine.tiny import (
    CLASSES,
    COMPANIONS,
    CONTRASTIVE,
    ICR,
    REGULARIZERS,
    gate_of,
    tiny_config,
    tiny_trainer,
)
from topk_plugin import gradient_gate
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.plan import describe_plan, describe_top_k
from topk_plugin.engine.trainer import Trainer

TOTAL, KEPT = 8, 3
OFF = {"LOSS": {"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}}
D2D = {
    "MODEL": {"d_cond_mtd": "D2DCE", "d_embed_dim": 8, "normalize_d_embed": True},
    "LOSS": {"cond_lambda": 1.0, "temperature": 1.0, "m_p": 0.9},
}
CLASSIFIER = {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 0.5}}
SAMPLE_BY_SAMPLE: dict[str, dict] = {
    "hinge, projection": {},
    "no classes": {"MODEL": {"g_cond_mtd": "W/O", "d_cond_mtd": "W/O", "g_shared_dim": "N/A"}},
    "logistic": {"LOSS": {"adv_loss": "logistic"}},
    "least squares": {"LOSS": {"adv_loss": "least_square"}},
    "AC": CLASSIFIER,
    "ICR": ICR,
    **{name: REGULARIZERS[name] for name in ("WGAN-GP",)},
    **{name: COMPANIONS[name] for name in ("SAN", "relativistic")},
}
ANY: dict[str, dict] = {
    "2C": CONTRASTIVE,
    "D2DCE": D2D,
    **{name: REGULARIZERS[name] for name in ("DiffAugment", "feature matching")},
    **{
        name: COMPANIONS[name]
        for name in ("masking", "NICE", "relativistic average", "minibatch discrimination")
    },
}


class Pool:
    """Latent vectors, labels and real batches that do not depend on how they are cut up."""

    def __init__(self, z_dim: int) -> None:
        random = torch.Generator().manual_seed(5)
        self._z = torch.randn(64, z_dim, generator=random, dtype=torch.float64)
        self._labels = torch.randint(CLASSES, (64,), generator=random)
        self._images = torch.rand(64, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1
        self._taken = {"z": 0, "labels": 0, "real": 0}

    def _next(self, name: str, count: int) -> slice:
        start = self._taken[name]
        self._taken[name] += count
        return slice(start, start + count)

    def latents(self, count: int) -> Tensor:
        return self._z[self._next("z", count)]

    def labels(self, count: int) -> Tensor:
        return self._labels[self._next("labels", count)]

    def nearby(self, z: Tensor, radius: float) -> Tensor:
        return z + radius * torch.sin(9 * z)

    def real(self, count: int) -> list[Batch]:
        rows = self._next("real", count)
        return [Batch(self._images[rows], self._labels[rows], torch.arange(64)[rows])]


def trainer_in_float64(*changes: dict, batches: int, batch_norm: bool = False) -> Trainer:
    """Over TOTAL samples an update, in so many micro-batches, k being KEPT."""
    size = {
        "OPTIMIZATION": {
            "batch_size": TOTAL // batches,
            "acml_steps": batches,
            "d_updates_per_step": 1,
        }
    }
    gamma = {"LOSS": {"topk_gamma": 0.1, "topk_nu": KEPT / TOTAL, "topk_accumulation": "effective"}}
    trainer = tiny_trainer(gamma, *changes, size)
    trainer.progress.epochs = 1
    for network in (trainer.generator, trainer.critic):
        network.double()
        for module in network.modules():
            if isinstance(module, _BatchNorm) and not batch_norm:
                module.eval()
                module.train = lambda mode=True, module=module: module  # stays so
    pool: Any = Pool(trainer.config.MODEL.z_dim)
    trainer.latents = pool
    batch_size = TOTAL // batches
    trainer.stream.next_step = lambda first_only=False: pool.real(batch_size)  # type: ignore[method-assign]
    return trainer


def gradient(trainer: Trainer) -> Tensor:
    trainer._train_generator()
    return torch.cat([p.grad.flatten() for p in trainer.generator.parameters()])


def buffers(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    for network in (trainer.generator, trainer.critic):
        yield from network.named_buffers()


def error(ours: Tensor, oracle: Tensor) -> float:
    return ((ours - oracle).norm() / oracle.norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("changes", SAMPLE_BY_SAMPLE)
def test_gradient_is_that_of_one_large_batch(changes: str) -> None:
    large = trainer_in_float64(SAMPLE_BY_SAMPLE[changes], batches=1)
    expected = gradient(large)
    accumulated = trainer_in_float64(SAMPLE_BY_SAMPLE[changes], batches=4)
    assert error(gradient(accumulated), expected) < 1e-10
    ours, theirs = gate_of(accumulated), gate_of(large)
    assert torch.equal(ours.stats.mask, theirs.stats.mask)
    assert int(ours.stats.k) == k_of(accumulated.terms) == KEPT
    for (name, own), (_, other) in zip(buffers(accumulated), buffers(large), strict=True):
        assert error(own.double(), other.double()) < 1e-12, name


def by_keeping_all_graphs(trainer: Trainer, batches: int) -> Tensor:
    """The obvious method: forward passes of all micro-batches, a selection, one backward pass."""
    scores: list[Tensor] = []
    weights: list[Tensor] = []
    vectors = [buffer for name, buffer in buffers(trainer) if name.endswith(("_u", "_v"))]
    start = [vector.clone() for vector in vectors]

    def gate(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not args[0].requires_grad:
            return None
        i = len(scores)
        return (gradient_gate(args[0], lambda: weights[i]), *args[1:]), kwargs

    def note(module: nn.Module, args: tuple, output: dict) -> None:
        if args[0].requires_grad:
            scores.append(output["adv_output"].detach())

    critic_input = trainer.objectives.critic_input
    critic_input.register_forward_pre_hook(gate, with_kwargs=True)
    critic_input.register_forward_hook(note)
    trainer.generator.train()
    trainer.critic.train()
    trainer._let_the_critic_learn(False)
    trainer.g_optimizer.zero_grad()
    losses = []
    for method in trainer.terms.values():
        method.around_generator_update().__enter__()
    needs_real = trainer._needs.real_in_generator_update
    for _ in range(batches):
        with torch.no_grad():
            for vector, value in zip(vectors, start, strict=True):
                vector.copy_(value)
        losses.append(trainer._generator_loss(trainer._draw(real=needs_real)))
    kept = torch.zeros(TOTAL, dtype=torch.float64)
    kept[torch.cat(scores).topk(KEPT).indices] = TOTAL / KEPT
    weights.extend(kept.split(TOTAL // batches))
    (sum(losses) / batches).backward()
    return torch.cat([p.grad.flatten() for p in trainer.generator.parameters()])


@pytest.mark.parametrize("changes", ANY)
def test_gradient_is_that_of_all_graphs_at_once(changes: str) -> None:
    """Losses that compare the samples of a micro-batch, random views, and batch statistics."""
    ours = trainer_in_float64(ANY[changes], batches=2, batch_norm=True)
    theirs = trainer_in_float64(ANY[changes], OFF, batches=2, batch_norm=True)
    theirs.terms.pop("top-k", None)
    expected = by_keeping_all_graphs(theirs, 2)
    assert error(gradient(ours), expected) < 1e-10
    for (name, own), (_, other) in zip(buffers(ours), buffers(theirs), strict=True):
        assert error(own.double(), other.double()) < 1e-12, name
    assert torch.equal(ours.augmentation.get_state(), theirs.augmentation.get_state())


EFFECTIVE = {
    "LOSS": {"topk_accumulation": "effective", "topk_every": 1},
    "OPTIMIZATION": {"batch_size": 4, "acml_steps": 2, "d_updates_per_step": 1},
}


def test_a_run_resumes_bit_for_bit() -> None:
    random = {"LOSS": {"topk_policy": "random"}}
    changes = (EFFECTIVE, random, REGULARIZERS["DiffAugment"])
    whole = tiny_trainer(*changes)
    for _ in range(2):
        whole.step()
    saved = io.BytesIO()
    torch.save(whole.state_dict(), saved)
    saved.seek(0)
    resumed = tiny_trainer(*changes)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    for trainer in (whole, resumed):
        for _ in range(2):
            trainer.step()
        assert k_of(trainer.terms) == 2
    assert_same(whole_state(whole), whole_state(resumed))


def test_of_one_batch_it_is_the_same_bit_for_bit() -> None:
    states = []
    for accumulation in ("micro", "effective"):
        trainer = tiny_trainer({"LOSS": {"topk_accumulation": accumulation, "topk_every": 1}})
        for _ in range(2):
            trainer.step()
        states.append(whole_state(trainer))
    assert_same(*states)


def test_both_passes_see_the_same_in_single_precision_and_bf16() -> None:
    for precision in ("fp32", "bf16"):
        trainer = tiny_trainer(EFFECTIVE, REGULARIZERS["DiffAugment"], precision=precision)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(6):  # an epoch has five steps
                trainer.step()


def test_slice_and_effective_do_not_go_together() -> None:
    with pytest.raises(UserError, match=r"topk_accumulation is 'effective'.*topk_mode 'gate'"):
        tiny_config({"LOSS": {"topk_mode": "slice", "topk_accumulation": "effective"}})


@pytest.mark.parametrize(
    ("changes", "expected", "absent"),
    [
        ({"OPTIMIZATION": {"batch_size": 8}}, "k from 8 to 2 of 8", "note: top-k selects"),
        (
            {"OPTIMIZATION": {"batch_size": 2, "acml_steps": 5}},
            "note: top-k selects among 2 scores only, so that k is coarse and their ranking mostly "
            "noise; raise OPTIMIZATION.batch_size, or set LOSS.topk_accumulation to 'effective', "
            "which selects among all 10 of an update",
            "over the 5",
        ),
        (
            {"OPTIMIZATION": {"batch_size": 6}},
            "noise; raise OPTIMIZATION.batch_size",
            "topk_accumulation",
        ),
        (
            {
                "LOSS": {"topk_accumulation": "effective"},
                "OPTIMIZATION": {"batch_size": 2, "acml_steps": 5},
            },
            "k from 10 to 3 of 10 (gamma 0.5 every epoch, nu 0.25), mode gate, policy top, "
            "normalize kept, over the 5 accumulated batches of an update",
            "note: top-k selects",
        ),
        (
            {"LOSS": {"topk_accumulation": "effective"}},
            "note: LOSS.topk_accumulation 'effective' changes nothing with OPTIMIZATION.acml_steps",
            "over the",
        ),
    ],
)
def test_the_plan_says_it(changes: dict, expected: str, absent: str) -> None:
    text = "\n".join(describe_plan(tiny_config(changes), images=40, steps_per_epoch=4))
    assert expected in text
    assert absent not in text


def test_steps_to_the_floor_are_those_of_the_larger_selection() -> None:
    lines = describe_top_k(
        tiny_config(
            {
                "LOSS": {"topk_accumulation": "effective"},
                "OPTIMIZATION": {"batch_size": 2, "acml_steps": 5, "total_steps": 50},
            }
        ),
        3,
    )
    assert lines[1] == "top-k: the floor is reached at step 6 of 50"
