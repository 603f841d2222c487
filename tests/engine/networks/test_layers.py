"""The building blocks against formulas written out by hand, in float64."""

import pytest
import torch
import torch.nn.functional as F

from topk_plugin.engine.networks.conditional_norm import ConditionalBatchNorm2d
from topk_plugin.engine.networks.layers import Layers, activation
from topk_plugin.engine.networks.resnet_critic import CriticBlock
from topk_plugin.engine.networks.self_attention import SelfAttention

PLAIN = Layers(spectral=False)


def _random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("ReLU", lambda x: x.clamp(min=0)),
        ("Leaky_ReLU", lambda x: torch.where(x > 0, x, 0.1 * x)),
        ("ELU", lambda x: torch.where(x > 0, x, x.exp() - 1)),
        ("GELU", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
    ],
)
def test_activations(name, formula):
    x = _random(50)
    before = x.clone()
    torch.testing.assert_close(activation(name)(x), formula(x))
    assert torch.equal(x, before)


def test_conditional_batch_norm_follows_its_formula():
    norm = ConditionalBatchNorm2d(4, 6, PLAIN).double()
    x, condition = 3 * _random(5, 6, 7, 7) + 1, _random(5, 4)
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    gain = 1 + condition @ norm.gain.weight.t()
    bias = condition @ norm.bias.weight.t()
    expected = (x - mean) / (variance + 1e-4).sqrt() * gain[..., None, None]
    torch.testing.assert_close(norm(x, condition), expected + bias[..., None, None])


def test_self_attention_is_an_explicit_softmax_over_pooled_positions():
    attention = SelfAttention(16, PLAIN).double()
    torch.nn.init.constant_(attention.sigma, 0.6)
    x = _random(2, 16, 4, 6)
    queries = attention.conv1x1_theta(x)
    keys = F.max_pool2d(attention.conv1x1_phi(x), 2)
    values = F.max_pool2d(attention.conv1x1_g(x), 2)
    mixed = torch.zeros(2, 8, 4, 6, dtype=torch.float64)
    for n in range(2):
        for row in range(4):
            for column in range(6):
                scores = [
                    queries[n, :, row, column] @ keys[n, :, i, j]
                    for i in range(2)
                    for j in range(3)
                ]
                weights = torch.stack(scores).exp()
                weights = weights / weights.sum()
                mixed[n, :, row, column] = values[n].flatten(1) @ weights
    expected = x + 0.6 * attention.conv1x1_attn(mixed)
    torch.testing.assert_close(attention(x), expected)


def test_self_attention_starts_as_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(SelfAttention(8, PLAIN)(x), x)


@pytest.mark.parametrize("name", ["ReLU", "Leaky_ReLU", "ELU", "GELU"])
@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize(("fan_out", "halve"), [(8, True), (8, False), (12, True), (12, False)])
def test_discriminator_block_follows_its_formula(name, spectral, fan_out, halve):
    """StudioGAN's skip path starts from the activated input: its activations work in place.

    Not so behind a batch normalisation, nor with GELU, which has no in-place form.
    """
    block = CriticBlock(8, fan_out, name, Layers(spectral), halve=halve).double().eval()
    act = activation(name)
    x = _random(3, 8, 4, 4)

    def conv(layer, value):
        weight = layer.weight
        if spectral:
            u, v, weight = layer.weight_u, layer.weight_v, layer.weight_orig
            weight = weight / (u @ weight.flatten(1) @ v)
        return F.conv2d(value, weight, layer.bias, padding=weight.shape[-1] // 2)

    h = conv(block.conv2d1, act(block.bn1(x)))
    h = conv(block.conv2d2, act(block.bn2(h)))
    skip = act(x) if spectral and name != "GELU" else x
    if halve or fan_out != 8:
        skip = conv(block.conv2d0, block.bn0(skip))
    expected = F.avg_pool2d(h + skip, 2) if halve else h + skip
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda layers: layers.conv2d(6, 10, 3),
        lambda layers: layers.linear(7, 9),
        lambda layers: layers.embedding(12, 5),
    ],
)
def test_spectral_norm_divides_by_the_largest_singular_value(make):
    layer = make(Layers(spectral=True)).double()
    x = torch.zeros(1, dtype=torch.int64)
    if not isinstance(layer, torch.nn.Embedding):
        x = _random(1, 6, 4, 4) if isinstance(layer, torch.nn.Conv2d) else _random(1, 7)
    for _ in range(2000):
        layer(x)
    expected = torch.linalg.svdvals(layer.weight_orig.detach().flatten(1))[0]
    torch.testing.assert_close((layer.weight_orig / layer.weight).flatten()[0], expected)


def test_spectral_norm_takes_one_step_in_training_and_none_in_evaluation():
    layer = Layers(spectral=True).linear(7, 9).double()
    u, weight = layer.weight_u.clone(), layer.weight_orig.detach()
    layer.eval()(_random(1, 7))
    assert torch.equal(layer.weight_u, u)
    layer.train()(_random(1, 7))
    v = F.normalize(weight.t() @ u, dim=0)
    torch.testing.assert_close(layer.weight_v, v)
    torch.testing.assert_close(layer.weight_u, F.normalize(weight @ v, dim=0))
