"""The copy of a generator that draws samples."""

import pytest
import torch

from topk_plugin.engine.building import build_generator
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.methods.ema import GeneratorEMA
from topk_plugin.engine.networks.sampling import sampling_copy

SETTINGS = Config.unchecked(
    MODEL={
        "backbone": "big_resnet",
        "g_cond_mtd": "cBN",
        "apply_g_sn": True,
        "apply_attn": True,
        "attn_g_loc": (2,),
        "z_dim": 16,
        "g_shared_dim": 5,
        "g_conv_dim": 4,
        "g_init": "N02",
    }
)


def _train(generator, steps):
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        generator(torch.randn(8, 16), torch.randint(10, (8,))).square().mean().backward()
        optimizer.step()
        yield


@pytest.fixture
def averaged():
    """A generator after a few large steps and its average, whose u and v are not unit vectors."""
    torch.manual_seed(0)
    generator = build_generator(SETTINGS)
    average = GeneratorEMA(generator, 0.9, 0)
    for step, _ in enumerate(_train(generator, 10)):
        average.update(step)
    return generator, average.module


def test_normalised_weights_have_spectral_norm_one(averaged):
    _, average = averaged
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    copy = sampling_copy(average)
    z, labels = torch.randn(2, 16), torch.tensor([1, 2])
    layers = [module for module in copy.modules() if hasattr(module, "weight_u")]
    assert len(layers) == 27

    copy(z, labels)
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.01)
        assert layer.weight_u.norm().item() == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(before[name], t) for name, t in average.state_dict().items())


def test_the_average_itself_would_be_normalised_wrongly(averaged):
    _, average = averaged
    average.eval()(torch.randn(2, 16), torch.tensor([1, 2]))
    norms = [
        torch.linalg.svdvals(module.weight.flatten(1))[0].item()
        for module in average.modules()
        if hasattr(module, "weight_u")
    ]
    assert max(norms) > 1.1


def test_copy_of_a_generator_in_training_is_independent_and_in_evaluation_mode(averaged):
    generator, _ = averaged
    weight = generator.linear0.weight
    assert weight.grad_fn is not None
    copy = sampling_copy(generator)
    assert generator.linear0.weight is weight
    assert generator.training
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    z, labels = torch.randn(2, 16), torch.tensor([1, 2])
    before = copy(z, labels)
    for _ in _train(generator, 1):
        assert torch.equal(copy(z, labels), before)
