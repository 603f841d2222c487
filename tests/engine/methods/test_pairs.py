"""Methods beside each other: any two train together, or a sentence says why not."""

import itertools

import pytest
import torch

from tests.engine.tiny import COMPANIONS, CONTRASTIVE, ICR, REGULARIZERS, tiny_config, tiny_images
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.san import SanHead
from topk_plugin.engine.trainer import Trainer

AUXILIARY = {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 1.0}}
METHODS = {**REGULARIZERS, **COMPANIONS, "AC": AUXILIARY, "2C": CONTRASTIVE, "ICR": ICR}


def trainer_of(*changes: dict) -> Trainer:
    config = tiny_config(*changes)
    return Trainer(config, tiny_images(), seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize("conditioning", [{}, AUXILIARY, CONTRASTIVE], ids=["PD", "AC", "2C"])
@pytest.mark.parametrize("other", ["NICE", "minibatch discrimination"])
def test_san_scores_what_heads_around_it_give(other: str, conditioning: dict) -> None:
    trainer = trainer_of(conditioning, COMPANIONS["SAN"], COMPANIONS[other])
    head = trainer.critic.head
    assert not isinstance(head, SanHead)
    assert isinstance(head.head, SanHead)
    seen: list[torch.Tensor] = []
    trainer.critic.san.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    losses = trainer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    # a row a sample, with all the features that the layer was made for
    assert {tuple(h.shape) for h in seen} == {(8, trainer.critic.san.weight.shape[1])}


@pytest.mark.slow
def test_every_two_methods_train_together_or_are_refused() -> None:
    trained = refused = 0
    for (_, one), (_, other) in itertools.combinations(METHODS.items(), 2):
        try:
            trainer = trainer_of(one, other)
        except UserError:
            refused += 1
            continue
        losses = trainer.step()
        assert all(torch.isfinite(loss) for loss in losses.values())
        trained += 1
    assert trained > 200
    assert refused > 10
