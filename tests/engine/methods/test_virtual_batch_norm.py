"""Virtual batch normalisation by hand, against a loop, and in both networks of a training."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import COMPANIONS, gate_of, tiny_config, tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.networks.conditional_norm import ConditionalBatchNorm2d
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.virtual_batch_norm import VirtualBatchNorm2d

IN_G, IN_D = COMPANIONS["VBN in G"], COMPANIONS["VBN in D"]
BATCH_NORM_IN_D = {"MODEL": {"apply_d_sn": False}}


def test_one_pixel_by_hand() -> None:
    """Reference 0 and 2, live 4: mean 2, mean square 20 / 3."""
    layer = VirtualBatchNorm2d(nn.BatchNorm2d(1), 2).double()
    with torch.no_grad():
        layer.weight.fill_(1)
    found = layer(torch.tensor([0.0, 2.0, 4.0]).double().view(3, 1, 1, 1)).flatten()
    assert found.tolist() == pytest.approx([-0.999995, 0.999995, 1.2247426], abs=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
def test_against_a_loop(conditional: bool) -> None:
    torch.manual_seed(0)
    replaced = ConditionalBatchNorm2d(4, 3, Layers(False)) if conditional else nn.BatchNorm2d(3)
    layer, rows = VirtualBatchNorm2d(replaced, 5).double(), 5
    x, condition = torch.randn(8, 3, 2, 4).double() + 1, torch.randn(8, 4).double()
    found = layer(x, condition)
    for n in range(8):
        for c in range(3):
            values = [v for r in range(rows) for v in x[r, c].flatten().tolist()]
            mean, square = sum(values) / 40, sum(v * v for v in values) / 40
            if n >= rows:
                own = x[n, c].flatten().tolist()
                mean = (sum(own) / 8 + rows * mean) / 6
                square = (sum(v * v for v in own) / 8 + rows * square) / 6
            normalised = (x[n, c] - mean) / (1e-5 + square - mean**2) ** 0.5
            if conditional:
                gain, bias = 1 + layer.gain(condition)[n, c], layer.bias(condition)[n, c]
            else:
                gain, bias = layer.weight[c], layer.bias[c]
            torch.testing.assert_close(found[n, c], normalised * gain + bias)
    with torch.no_grad():
        half = layer.float()(x.bfloat16(), condition.float())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), found.detach(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("conditional", [True, False])
def test_an_image_is_the_same_whatever_it_is_made_with(conditional: bool) -> None:
    change = {} if conditional else {"MODEL": {"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}}
    trainer = tiny_trainer(IN_G, change)
    for _ in range(3):
        trainer.step()
    z, labels = torch.randn(6, 8), torch.arange(6) % 4
    sampler = trainer.sampler()
    together = sampler(z, labels)
    assert together.shape == (6, 3, 32, 32)
    torch.testing.assert_close(sampler(z[2:3], labels[2:3]), together[2:3], rtol=1e-4, atol=1e-5)
    # in training too
    generator = trainer.generator.train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in generator.modules())
    images = generator(z, labels)
    (gradient,) = torch.autograd.grad(images[1].sum(), [z.requires_grad_()], allow_unused=True)
    assert gradient is None  # z was no leaf of that pass
    images = generator(z, labels)
    (gradient,) = torch.autograd.grad(images[1].sum(), [z])
    assert gradient[1].any()
    assert not gradient[[0, 2, 3, 4, 5]].any()


def test_the_reference_gets_gradient_and_is_the_seeds() -> None:
    first, again, other = (tiny_trainer(IN_G, seed=seed) for seed in (0, 0, 1))
    assert first.generator.reference.shape == (8, 8)
    assert torch.equal(first.generator.reference, again.generator.reference)
    assert not torch.equal(first.generator.reference, other.generator.reference)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.generator.reference, other.generator.reference)
    reference = first.generator.reference.requires_grad_()
    first.generator(torch.randn(2, 8), torch.tensor([0, 1])).sum().backward()
    assert reference.grad.any()
    rows = tiny_trainer(IN_G, {"MODEL": {"g_vbn_rows": 3}}).generator.reference
    assert len(rows) == 3


def test_the_critic_starts_as_it_would_without() -> None:
    plain, virtual = tiny_trainer(), tiny_trainer(IN_G)
    for name, value in plain.critic.state_dict().items():
        assert torch.equal(virtual.critic.state_dict()[name], value)


def test_the_critics_reference_are_training_images() -> None:
    trainer = tiny_trainer(IN_D, {"MODEL": {"d_vbn_rows": 3}})
    pixels = ((trainer.critic.reference + 1) * 127.5).round().to(torch.uint8)
    images = tiny_images()
    for image, label in zip(pixels, trainer.critic.reference_labels, strict=True):
        (same,) = torch.nonzero((images.images == image).flatten(1).all(1))
        assert images.labels[same] == label
    before = trainer.critic.reference.clone()
    trainer.step()
    assert torch.equal(trainer.critic.reference, before)
    with pytest.raises(UserError, match="d_vbn_rows is 41, and there are 40 training images"):
        tiny_trainer(IN_D, {"MODEL": {"d_vbn_rows": 41}})


def gradients_of_fakes(change: dict) -> dict[str, Tensor]:
    """Of 8 fakes, k = 2: through the gate, of the whole batch's loss, and of a slice."""
    trainer = tiny_trainer(change, {"LOSS": {"topk_every": 1}})
    for _ in range(2):
        trainer.step()
    critic, gate = trainer.critic.double(), gate_of(trainer)
    pixels = torch.rand(8, 3, 32, 32, dtype=torch.float64) * 2 - 1
    labels = torch.arange(8) % 4
    state = copy.deepcopy(critic.state_dict())

    def gradient(of: object) -> Tensor:
        critic.load_state_dict(state)
        images = pixels.clone().requires_grad_()
        of(images).backward()  # type: ignore[operator]
        return images.grad

    def whole(images: Tensor) -> Tensor:
        return trainer.objectives.of_generator(Fakes(images, labels), None)

    with gate.generator_step():
        gated = gradient(whole)
    kept = gate.stats.mask
    assert kept.sum() == 2
    return {
        "kept": kept,
        "gate": gated,
        "whole": gradient(whole),
        "slice": gradient(lambda x: -critic(x, labels)["adv_output"][kept].mean()),
    }


def test_gate_and_slice_are_one_where_rows_do_not_mix_and_two_where_they_do() -> None:
    """What "top-k" means with batch normalisation: zeroed rows of the whole batch's gradient."""
    virtual, mixed = gradients_of_fakes(IN_D), gradients_of_fakes(BATCH_NORM_IN_D)
    for found in (virtual, mixed):
        kept = found["kept"]
        assert not found["gate"][~kept].any()
        torch.testing.assert_close(found["gate"][kept], 4 * found["whole"][kept])
    kept = virtual["kept"]
    torch.testing.assert_close(virtual["gate"], virtual["slice"])
    kept = mixed["kept"]
    assert mixed["slice"][~kept].any()
    difference = (mixed["gate"] - mixed["slice"])[kept].norm() / mixed["slice"][kept].norm()
    assert difference > 0.01


def test_other_heads_and_layers_see_the_live_rows() -> None:
    """SAN's layer, minibatch features and contrastive heads stand behind the reference."""
    contrastive = {
        "MODEL": {"d_cond_mtd": "2C", "d_embed_dim": 8, "normalize_d_embed": True},
        "LOSS": {"cond_lambda": 1.0, "temperature": 1.0},
    }
    for change in (COMPANIONS["SAN"], COMPANIONS["minibatch discrimination"], contrastive):
        trainer = tiny_trainer(IN_D, change)
        out = trainer.critic(torch.rand(5, 3, 32, 32), torch.arange(5) % 4)
        assert len(out["h"]) == len(out["adv_output"]) == len(out["label"]) == 5
        losses = trainer.step()
        assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("change", [IN_G, IN_D])
def test_bf16_trains(change: dict) -> None:
    trainer = tiny_trainer(change, precision="bf16")
    losses = [trainer.step() for _ in range(2)][-1]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_critic_without_batch_normalisation_is_refused() -> None:
    with pytest.raises(UserError, match=r"only has with MODEL\.apply_d_sn False"):
        tiny_config(IN_D, {"MODEL": {"apply_d_sn": True}})
    with pytest.raises(UserError, match="two draws of a batch"):
        tiny_config(IN_D, COMPANIONS["NICE"])
