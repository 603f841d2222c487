"""Accelerated networks against the untouched ones."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from tests.studiogan.named_like_studiogan import (
    DiscBlock,
    DiscOptBlock,
    Discriminator,
    GenBlock,
    Generator,
)
from topk_plugin.ops.resampling_layers import Conv2dAvgPool, UpsampleConv2d
from topk_plugin.studiogan.accelerate import _Fast, accelerate

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "Leaky ReLU in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "GELU": nn.GELU,
}


def results(
    generator: nn.Module, discriminator: nn.Module, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Loss, gradients and buffers of a step with two critic calls, as StudioGAN has them."""
    random = torch.Generator().manual_seed(1)
    z = torch.randn(6, 5, generator=random, dtype=torch.float64).to(dtype)
    real = torch.randn(6, 3, 8, 8, generator=random, dtype=torch.float64).to(dtype)
    fakes = generator(z)
    loss = discriminator(fakes).square().sum() + discriminator(real).sin().sum()
    loss.backward()
    found = {"loss": loss.detach(), "fakes": fakes.detach()}
    for name, network in (("G", generator), ("D", discriminator)):
        found |= {f"{name} gradient {k}": p.grad for k, p in network.named_parameters()}
        found |= {f"{name} buffer {k}": b for k, b in network.named_buffers()}
    return {k: v for k, v in found.items() if v is not None}


def error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    names = [name for name in expected if "gradient" in name]
    pairs = [torch.cat([found[n].flatten() for n in names]) for found in (actual, expected)]
    return float((pairs[0] - pairs[1]).norm() / pairs[1].norm())


def pair(dtype: torch.dtype, *, activation: str = "ReLU in place", **kinds: object):
    torch.manual_seed(0)
    generator = Generator(ACTIVATIONS[activation](), norm=str(kinds.get("norm", "conditional")))
    discriminator = Discriminator(ACTIVATIONS[activation](), bool(kinds.get("spectral", True)))
    return generator.to(dtype), discriminator.to(dtype)


@pytest.mark.parametrize(
    "kinds",
    [
        *({"activation": name} for name in ACTIVATIONS),
        {"spectral": False},
        {"norm": "plain", "backbone": "models.resnet"},
        {"backbone": "models.resnet"},
    ],
    ids=str,
)
def test_outputs_gradients_and_buffers_are_the_untouched_networks(
    kinds: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (GenBlock, DiscOptBlock, DiscBlock):
        monkeypatch.setattr(block, "__module__", kinds.get("backbone", "models.big_resnet"))
    untouched, accelerated = pair(torch.float64, **kinds), pair(torch.float64, **kinds)
    for network in accelerated:
        accelerate(network)
        fast = [type(m).__name__ for m in network.modules() if isinstance(m, _Fast)]
        assert {"GenBlock", "DiscOptBlock"} & set(fast)
    expected, actual = (results(*networks, torch.float64) for networks in (untouched, accelerated))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-9, msg=name)
    assert error(actual, expected) < 1e-12


def test_gradients_agree_in_fp32() -> None:
    untouched, accelerated = pair(torch.float32), pair(torch.float32)
    for network in accelerated:
        accelerate(network)
        fast = [type(m).__name__ for m in network.modules() if isinstance(m, _Fast)]
        assert {"GenBlock", "DiscOptBlock"} & set(fast)
    expected, actual = (results(*networks, torch.float32) for networks in (untouched, accelerated))
    assert error(actual, expected) < 1e-4


def test_every_known_module_is_replaced_and_keeps_its_names() -> None:
    generator, discriminator = pair(torch.float32)
    before = [
        [(k, v.shape) for k, v in network.state_dict().items()]
        for network in (generator, discriminator)
    ]
    for network in (generator, discriminator):
        accelerate(network)
    after = [
        [(k, v.shape) for k, v in network.state_dict().items()]
        for network in (generator, discriminator)
    ]
    assert after == before
    assert type(generator.block.conv2d1).forward is UpsampleConv2d.forward
    assert type(discriminator.first.conv2d2).forward is Conv2dAvgPool.forward
    assert type(discriminator.second.conv2d2).forward is Conv2dAvgPool.forward
    assert type(discriminator.third.conv2d2) is nn.Conv2d
    assert generator.block.conv2d1.weight_orig.is_contiguous(memory_format=torch.channels_last)
    accelerate(pair(torch.float32)[0], channels_last=False)


def test_remove_leaves_everything_as_it_was() -> None:
    untouched, networks = pair(torch.float64), pair(torch.float64)
    handles = [accelerate(network) for network in networks]
    with pytest.raises(RuntimeError, match="Generator is accelerated already"):
        accelerate(networks[0])
    for handle in handles:
        handle.remove()
        handle.remove()
    for network, original in zip(networks, untouched, strict=True):
        for module, other in zip(network.modules(), original.modules(), strict=True):
            assert type(module) is type(other)
            kinds = [
                [type(hook) for hook in m._forward_pre_hooks.values()] for m in (module, other)
            ]
            assert kinds[0] == kinds[1]
        assert all(p.is_contiguous() for p in network.parameters())
    expected, actual = (results(*pair_, torch.float64) for pair_ in (untouched, networks))
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    accelerate(networks[0])


def test_a_copy_computes_with_its_own_weights() -> None:
    generator, _ = pair(torch.float64)
    accelerate(generator)
    copied = copy.deepcopy(generator).eval()
    z = torch.randn(2, 5, dtype=torch.float64)
    before = copied(z)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(0.5)
    assert torch.equal(copied(z), before)


def test_sequences_of_torchs_own_layers() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Upsample(scale_factor=2), spectral_norm(nn.Conv2d(3, 4, 3, padding=1))),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 5, 3, padding="same"), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(5, 6, 3), nn.AvgPool2d(2)),  # without padding: not foldable
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.AvgPool2d(2, padding=1)),  # nor this
    ).double()
    untouched = copy.deepcopy(network)
    accelerate(network)
    folded = [type(network[i][j]).forward for i, j in ((0, 1), (2, 0), (3, 0), (4, 0))]
    assert folded[:2] == [UpsampleConv2d.forward, Conv2dAvgPool.forward]
    assert folded[2:] == [nn.Conv2d.forward] * 2
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected, actual = untouched(x), network(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for one in (expected, actual):
        one.square().sum().backward()
    for ours, theirs in zip(network.parameters(), untouched.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_what_is_not_known_is_refused_and_left_alone() -> None:
    network = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="nothing in this Sequential can be accelerated; known"):
        accelerate(network)
    assert type(network[0]) is nn.Upsample
