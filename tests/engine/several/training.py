"""Trainings in float64 whose end is compared between world sizes."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.engine.tiny import COMPANIONS, CONTRASTIVE, ICR, REGULARIZERS, tiny_config, tiny_images
from topk_plugin.engine.sample_grid import generate
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.extractors import LoadedExtractor
from topk_plugin.evaluation.features import extract_features
from topk_plugin.gate import ranks

LONG, SHORT = 10, 2
COUNTS = (1, 4, 5, 23)

SEMI_SUPERVISED: dict = {
    "DATA": {"labels_per_class": 3},
    "MODEL": {"d_cond_mtd": "K+1"},
    "LOSS": {"adv_loss": "vanilla", "cond_lambda": 2.0},
}

MAIN_CASES: dict[str, tuple[dict, ...]] = {
    "PD": (),
    "AC": ({"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 1.0}},),
    "2C": (CONTRASTIVE,),
    "D2DCE": (CONTRASTIVE, {"MODEL": {"d_cond_mtd": "D2DCE"}, "LOSS": {"m_p": 0.98}}),
    "ICR": (ICR,),
    "WGAN-GP": (REGULARIZERS["WGAN-GP"],),
}
CASES: dict[str, tuple[dict, ...]] = {
    **MAIN_CASES,
    "accumulation": ({"OPTIMIZATION": {"acml_steps": 2, "batch_size": 4}},),
    "one selection of accumulated batches": (
        {"OPTIMIZATION": {"acml_steps": 2, "batch_size": 4}},
        {"LOSS": {"topk_accumulation": "effective", "topk_policy": "random"}},
        REGULARIZERS["DiffAugment"],
    ),
    "K+1": (SEMI_SUPERVISED,),
    "random policy": ({"LOSS": {"topk_policy": "random"}},),
    "balanced policy": ({"LOSS": {"topk_policy": "balanced"}},),
    "batch norm in the critic": ({"MODEL": {"apply_d_sn": False}},),
    "batch norm in the critic, penalised": ({"MODEL": {"apply_d_sn": False}}, REGULARIZERS["R1"]),
    **{name: (change,) for name, change in (REGULARIZERS | COMPANIONS).items()},
}


# A bias in front of batch normalisation moves by what rounding makes of a gradient of 0.
TOLERANCES = {"batch norm in the critic, penalised": 1e-8}


def steps_of(name: str) -> int:
    if name == "self-diagnosing":
        return 5  # its second phase begins at step 3
    return LONG if name in MAIN_CASES else SHORT


def train(
    changes: Sequence[dict],
    *,
    steps: int,
    state: dict[str, Any] | None = None,
    synchronized_bn: bool = True,
) -> dict[str, Any]:
    """The state after ``steps`` in float64, and the losses of the last step, over all processes."""
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(
            tiny_config(*changes),
            tiny_images(),
            seed=3,
            device=torch.device("cpu"),
            synchronized_bn=synchronized_bn,
        )
        if state is not None:
            # the optimisers take the tensors as they are, and processes would share them
            trainer.load_state_dict(copy.deepcopy(state))
        losses: dict[str, Tensor] = {}
        for _ in range(steps):
            losses = trainer.step()
        losses = {name: ranks.mean(loss) for name, loss in losses.items()}
        return {"state": trainer.state_dict(), "losses": losses}
    finally:
        torch.set_default_dtype(torch.float32)


def train_all(names: Sequence[str]) -> dict[str, Any]:
    return {name: train(CASES[name], steps=steps_of(name)) for name in names}


def train_halves(states: dict[str, Any]) -> dict[str, Any]:
    """The first half of trainings, and what becomes of others' first halves in the second."""
    return {
        "first": {name: train(CASES[name], steps=LONG // 2) for name in states},
        "second": {
            name: train(CASES[name], steps=LONG - LONG // 2, state=state)
            for name, state in states.items()
        },
        "own statistics": train(CASES["PD"], steps=SHORT, synchronized_bn=False),
    }


class RowSums(nn.Module):
    """An extractor that can't be mistaken, and whose result depends on the batch it sees."""

    def get_requested_features_list(self) -> tuple[str, ...]:
        return ("sums",)

    def convert_features_tuple_to_dict(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"sums": features[0]}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        sums = images.double().flatten(1).sum(1, keepdim=True)
        return (torch.cat([sums, sums.mean().expand_as(sums)], 1),)


class Stretch(nn.Module):
    """A generator whose images depend on the batch."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        pixels = z.mean() + z[:, :1] + labels[:, None]
        return (pixels / 10).tanh()[:, :, None, None].expand(-1, 3, 4, 4)


def measure(count: int) -> dict[str, Tensor]:
    """Images of a generator, and features of them, over all processes."""
    z = torch.linspace(-2, 2, count)[:, None].expand(count, 3)
    images = generate(Stretch(), z, torch.arange(count) % 3, batch_size=4)
    extractor = LoadedExtractor("sums", RowSums(), "", "", {})
    device = torch.device("cpu")
    features = extract_features(
        extractor, images, device=device, batch_size=3, what="images", shared=True
    )
    return {"images": images, "features": features["sums"]}


def measure_all(counts: Sequence[int]) -> list[dict[str, Tensor]]:
    return [measure(count) for count in counts]


def learn_of_each_other() -> dict[str, Any]:
    """What the functions of `ranks` that hosts talk with give."""
    rank = ranks.rank()
    order: list[int] = []
    with ranks.first_before_others():
        order.append(rank)
    try:
        ranks.of_the_first(lambda: [][1])
        raised = "nothing"
    except IndexError:
        raised = "IndexError"
    return {
        "any": [ranks.any_rank(rank == 1), ranks.any_rank(False)],
        "first": ranks.of_the_first(lambda: {"rank": rank}),
        "raised": raised,
        "mean": ranks.mean(torch.tensor([float(rank), 2.0])),
    }


def second_derivatives() -> dict[str, Tensor]:
    """A penalty on the gradient of a loss of joined rows, differentiated."""
    all_rows = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)
    weight = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    own = ranks.own_part(all_rows).clone().requires_grad_()
    joined = ranks.gather_rows((own * weight).sum(1))
    loss = (joined[:, None] - joined[None]).square().sin().sum()
    (gradient,) = torch.autograd.grad(loss, own, create_graph=True)
    # every process has added the loss's gradient
    gradient = gradient / ranks.world_size()
    penalty = gradient.square().sum(1).mean()
    (of_weight,) = torch.autograd.grad(penalty, weight)
    return {"gradient": ranks.gather_batch(gradient), "of weight": ranks.mean(of_weight)}


def in_one_run(halves: dict[str, Any]) -> dict[str, Any]:
    """Everything that several processes are asked for, so that they are started once."""
    return {
        "whole": train_all(list(CASES)),
        "halves": train_halves(halves),
        "measured": measure_all(COUNTS),
        "learnt": learn_of_each_other(),
        "second derivatives": second_derivatives(),
    }
