"""Blocks that compute plainly what StudioGAN's do, under its names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm


def conv(fan_in: int, fan_out: int, size: int, *, bias: bool = True, spectral: bool) -> nn.Conv2d:
    layer = nn.Conv2d(fan_in, fan_out, size, padding=size // 2, bias=bias)
    return spectral_norm(layer, eps=1e-6) if spectral else layer


class ConditionalBatchNorm2d(nn.Module):
    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.gain = spectral_norm(nn.Linear(condition, channels, bias=False))
        self.bias = spectral_norm(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bn(x) * (1 + self.gain(y))[..., None, None] + self.bias(y)[..., None, None]


class SelfAttention(nn.Module):
    def __init__(self, channels: int, spectral: bool) -> None:
        super().__init__()
        for name, fan_in, fan_out in (
            ("theta", channels, channels // 8),
            ("phi", channels, channels // 8),
            ("g", channels, channels // 2),
            ("attn", channels // 2, channels),
        ):
            layer = conv(fan_in, fan_out, 1, bias=False, spectral=spectral)
            self.add_module(f"conv1x1_{name}", layer)
        self.sigma = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.conv1x1_theta(x).flatten(2).transpose(1, 2)
        phi = F.max_pool2d(self.conv1x1_phi(x), 2).flatten(2)
        g = F.max_pool2d(self.conv1x1_g(x), 2).flatten(2)
        mixed = g @ torch.softmax(theta @ phi, -1).transpose(1, 2)
        return x + self.sigma * self.conv1x1_attn(mixed.unflatten(2, x.shape[2:]))


class GenBlock(nn.Module):
    def __init__(self, channels: int, condition: int, activation: nn.Module, norm: str) -> None:
        super().__init__()
        norms = {"conditional": ConditionalBatchNorm2d, "plain": None}
        make = norms[norm]
        for name in ("bn1", "bn2"):
            bn = nn.BatchNorm2d(channels) if make is None else make(condition, channels)
            self.add_module(name, bn)
        self.activation = activation
        for name, size in (("conv2d0", 1), ("conv2d1", 3), ("conv2d2", 3)):
            self.add_module(name, conv(channels, channels, size, spectral=True))

    def forward(self, x: Tensor, affine: Tensor) -> Tensor:
        given = () if isinstance(self.bn1, nn.BatchNorm2d) else (affine,)
        h = F.interpolate(self.activation(self.bn1(x, *given)), scale_factor=2.0)
        h = self.conv2d2(self.activation(self.bn2(self.conv2d1(h), *given)))
        return h + self.conv2d0(F.interpolate(x, scale_factor=2.0))


class DiscOptBlock(nn.Module):
    def __init__(self, channels: int, activation: nn.Module, spectral: bool) -> None:
        super().__init__()
        self.apply_d_sn = spectral
        self.activation = activation
        self.conv2d0 = conv(3, channels, 1, spectral=spectral)
        self.conv2d1 = conv(3, channels, 3, spectral=spectral)
        self.conv2d2 = conv(channels, channels, 3, spectral=spectral)
        if not spectral:
            self.bn0, self.bn1 = nn.BatchNorm2d(3), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h, skip = self.conv2d1(x), F.avg_pool2d(x, 2)
        if not self.apply_d_sn:
            h, skip = self.bn1(h), self.bn0(skip)
        return F.avg_pool2d(self.conv2d2(self.activation(h)), 2) + self.conv2d0(skip)


class DiscBlock(nn.Module):
    def __init__(
        self, channels: int, activation: nn.Module, spectral: bool, downsample: bool
    ) -> None:
        super().__init__()
        self.apply_d_sn, self.downsample = spectral, downsample
        self.activation = activation
        for name, size in (("conv2d0", 1), ("conv2d1", 3), ("conv2d2", 3)):
            if size > 1 or downsample:
                self.add_module(name, conv(channels, channels, size, spectral=spectral))
        if not spectral:
            for name in ("bn0", "bn1", "bn2"):
                self.add_module(name, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        plain = self.apply_d_sn
        h = self.conv2d1(self.activation(x if plain else self.bn1(x)))  # an in-place one changes x
        h = self.conv2d2(self.activation(h if plain else self.bn2(h)))
        if not self.downsample:
            return h + x
        skip = self.conv2d0(x if plain else self.bn0(x))
        return F.avg_pool2d(h, 2) + F.avg_pool2d(skip, 2)


for _class in (GenBlock, DiscOptBlock, DiscBlock):
    _class.__module__ = "models.big_resnet"
for _class in (ConditionalBatchNorm2d, SelfAttention):
    _class.__module__ = "utils.ops"


class Generator(nn.Module):
    """[N, 5] latents -> [N, 3, 8, 8]."""

    def __init__(self, activation: nn.Module, norm: str = "conditional") -> None:
        super().__init__()
        self.linear0 = spectral_norm(nn.Linear(5, 16 * 4))
        self.block = GenBlock(16, 5, activation, norm)
        self.attention = SelfAttention(16, True)
        self.second = GenBlock(16, 5, activation, norm)
        self.conv2d5 = conv(16, 3, 3, spectral=True)

    def forward(self, z: Tensor) -> Tensor:
        h = self.block(self.linear0(z).view(-1, 16, 2, 2), z)
        return torch.tanh(self.conv2d5(self.second(self.attention(h), z)))


class Discriminator(nn.Module):
    """[N, 3, 8, 8] -> [N]."""

    def __init__(self, activation: nn.Module, spectral: bool = True) -> None:
        super().__init__()
        self.first = DiscOptBlock(16, activation, spectral)
        self.attention = SelfAttention(16, spectral)
        self.second = DiscBlock(16, activation, spectral, downsample=True)
        self.third = DiscBlock(16, activation, spectral, downsample=False)
        self.activation = activation
        self.linear1 = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.third(self.second(self.attention(self.first(x))))
        return self.linear1(self.activation(h).sum((2, 3))).squeeze(1)
