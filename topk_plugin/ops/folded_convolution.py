"""3x3 convolutions that absorb the resampling next to them.

Both foldings are linear in the 3x3 weight, exact, and leave the weight and its gradient as they
are. In one dimension, with the taps a, b, c of the convolution:

- Nearest x2 up-sampling repeats every value, so that two of the three taps meet the same one:
  y[2i] = a x[i-1] + (b + c) x[i] and y[2i+1] = (a + b) x[i] + c x[i+1]. In two dimensions: four
  2x2 convolutions of the small image instead of one 3x3 convolution of the large one.
- The mean of two neighbouring results reads four values, with the taps a, a + b, b + c, c, halved.
  In two dimensions: one 4x4 convolution of stride 2.

Either way 16 multiplications stand where there were 36.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.ops.dispatch import implementation

# On a CPU, 16-bit convolutions are so fast that folding the weight costs more than it saves on a
# small image. These are the sizes, in pixels of the small image, from which it won or broke even
# (measured in bf16 with batches of 64 and 64 to 384 channels; at half the side it lost or was
# even).
LEAST_PIXELS_16_BIT_UPSAMPLE = 16 * 16
LEAST_PIXELS_16_BIT_AVGPOOL = 16 * 16


def upsample_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest x2 up-sampling, then a 3x3 convolution with padding 1.

    Faster than the two by 16 multiplications in place of 36 and because the up-sampled image is
    never written. The two convolutions for the even and the odd rows give both columns of each
    pair as channels, so that a row of the result is already in order when they are channels-last.
    Differentiable any number of times. The folded weight is computed in float32 or float64; under
    autocast it is rounded after folding.

    Args:
        x: floating-point [N, in, H, W]; any H and W.
        weight: [out, in, 3, 3].
        bias: [out].

    Returns:
        [N, out, 2H, 2W], in x's memory format.

    Raises:
        ValueError: the shapes don't fit together.
    """
    _check_shapes(x, weight, bias)
    return torch.ops.topk_plugin.upsample_conv3x3(x, weight, bias)


def upsample_conv3x3_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What :func:`upsample_conv3x3` computes, as two operations."""
    return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)


def conv3x3_avgpool(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 3x3 convolution with padding 1, then the mean over squares of 2x2.

    Faster than the two by 16 multiplications in place of 36 and because the result at full size
    is never written. Differentiable any number of times. The folded weight is computed in float32
    or float64; under autocast it is rounded after folding.

    Args:
        x: floating-point [N, in, H, W]; H and W are at least 2. Of an odd number of rows or
            columns the last has no square, as with avg_pool2d, and is seen by the convolution only.
        weight: [out, in, 3, 3].
        bias: [out].

    Returns:
        [N, out, H // 2, W // 2], in x's memory format.

    Raises:
        ValueError: the shapes don't fit together, or the image is too small.
    """
    _check_shapes(x, weight, bias)
    if x.shape[2] < 2 or x.shape[3] < 2:
        raise ValueError(
            f"x is {list(x.shape)}; pooling needs a height and a width of at least 2 pixels"
        )
    return torch.ops.topk_plugin.conv3x3_avgpool(x, weight, bias)


def conv3x3_avgpool_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What :func:`conv3x3_avgpool` computes, as two operations."""
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


# Algebra over torch's own operators: torch differentiates it, and torch.compile sees through it.
for _name in ("upsample_conv3x3", "conv3x3_avgpool"):
    torch.library.define(
        f"topk_plugin::{_name}",
        "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )


@torch.library.impl("topk_plugin::upsample_conv3x3", "CompositeImplicitAutograd")
def _upsample_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    batch, _, height, width = x.shape
    too_small = _is_16_bit_on_cpu(x) and height * width < LEAST_PIXELS_16_BIT_UPSAMPLE
    if too_small or implementation("upsample_conv3x3", x.device) == "reference":
        return upsample_conv3x3_reference(x, weight, bias)
    channels = weight.shape[0]
    biases = None if bias is None else torch.cat((bias, bias))
    rows = []
    for phase, kernel in enumerate(_kernels_of_row_phases(weight)):
        # [N, H+1, W+1, 2 out]. The left column of pair j is at j, the right one at j + 1 where it
        # comes first: flattened, they follow each other, after one to drop and before another.
        y = F.conv2d(x, kernel, biases, padding=1).permute(0, 2, 3, 1)
        y = y.reshape(batch, height + 1, 2 * (width + 1), channels)
        rows.append(y[:, phase : phase + height, 1:-1])
    result = torch.stack(rows, 2).flatten(1, 2).permute(0, 3, 1, 2)
    return result if _is_channels_last(x) else result.contiguous()


@torch.library.impl("topk_plugin::conv3x3_avgpool", "CompositeImplicitAutograd")
def _conv3x3_avgpool(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pixels = (x.shape[2] // 2) * (x.shape[3] // 2)
    too_small = _is_16_bit_on_cpu(x) and pixels < LEAST_PIXELS_16_BIT_AVGPOOL
    if too_small or implementation("conv3x3_avgpool", x.device) == "reference":
        return conv3x3_avgpool_reference(x, weight, bias)
    result = F.conv2d(x, _pooled_kernel(weight), bias, stride=2, padding=1)
    return result if _is_channels_last(x) else result.contiguous()


# Sums and not products with a matrix of ones: a GPU may round the factors of a product to TF32.
# Channels stay innermost, as channels-last weights have them.


def _kernels_of_row_phases(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels [2 out, in, 2, 2] of the even and the odd rows; right columns' outputs first."""
    left, middle, right = _in_full_precision(weight).permute(0, 2, 3, 1).unbind(2)
    right_columns = torch.stack((left + middle, right), 2)
    left_columns = torch.stack((left, middle + right), 2)
    top, middle, bottom = torch.cat((right_columns, left_columns)).unbind(1)
    even_rows = torch.stack((top, middle + bottom), 1)
    odd_rows = torch.stack((top + middle, bottom), 1)
    return _as_kernel(even_rows, weight), _as_kernel(odd_rows, weight)


def _pooled_kernel(weight: Tensor) -> Tensor:
    """The kernel [out, in, 4, 4] of convolution and pooling."""
    top, middle, bottom = _in_full_precision(weight).permute(0, 2, 3, 1).unbind(1)
    columns = torch.stack((top, top + middle, middle + bottom, bottom), 1)
    left, middle, right = (columns * 0.25).unbind(2)
    kernel = torch.stack((left, left + middle, middle + right, right), 2)
    return _as_kernel(kernel, weight)


def _in_full_precision(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype.itemsize == 2 else weight


def _as_kernel(folded: Tensor, weight: Tensor) -> Tensor:
    """``folded`` [out, height, width, in] as a convolution takes it, in ``weight``'s dtype."""
    return folded.permute(0, 3, 1, 2).to(weight.dtype)


def _is_16_bit_on_cpu(x: Tensor) -> bool:
    if x.device.type != "cpu":
        return False
    # autocast leaves float64 as it is
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu").itemsize == 2
    return x.dtype.itemsize == 2


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    fits = (
        x.dim() == weight.dim() == 4
        and weight.shape[1:] == (x.shape[1], 3, 3)
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        raise ValueError(
            f"x {list(x.shape)}, weight {list(weight.shape)} and bias "
            f"{None if bias is None else list(bias.shape)} do not fit; "
            "allowed: [N, in, H, W], [out, in, 3, 3] and [out] or None"
        )
