"""Rows times weights in one pass that reads no row whose weight is 0."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# (a kernel's arguments have triton's types, which its specimens name)

import torch
import triton
import triton.language as tl
from torch import Tensor

from topk_plugin.ops.kernels.specimen import Specimen

BLOCK = 1024
WARPS = 4


@triton.jit
def gate_rows_kernel(
    gradient, weights, result, row_size, blocks_per_row, BLOCK: tl.constexpr, COMPUTE: tl.constexpr
):
    program = tl.program_id(0)
    row = program // blocks_per_row
    columns = (program % blocks_per_row) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < row_size
    start = row.to(tl.int64) * row_size
    weight = tl.load(weights + row).to(COMPUTE)
    target = result + start + columns
    if weight == 0:
        tl.store(target, tl.full([BLOCK], 0.0, result.dtype.element_ty), mask=inside)
    else:
        values = tl.load(gradient + start + columns, mask=inside).to(COMPUTE)
        tl.store(target, (values * weight).to(result.dtype.element_ty), mask=inside)


def gate_rows(gradient: Tensor, weights: Tensor) -> Tensor:
    """``gradient`` with its rows weighted; see :func:`topk_plugin.ops.gate_rows.gate_rows`.

    Args:
        gradient: floating-point [*leading, ...]; its rows follow each other in memory without
            gaps, and the elements of a row lie in any order (contiguous, channels-last).
        weights: floating-point [*leading], contiguous.

    Returns:
        A tensor of the shape, dtype and strides of ``gradient``.
    """
    result = torch.empty_like(gradient)
    rows = weights.numel()
    if gradient.numel() == 0:
        return result
    row_size = gradient.numel() // rows
    blocks_per_row = triton.cdiv(row_size, BLOCK)
    wide = torch.float64 in (gradient.dtype, weights.dtype)
    with torch.cuda.device_of(gradient):  # where triton launches; nothing on a CPU
        gate_rows_kernel[(rows * blocks_per_row,)](
            gradient,
            weights,
            result,
            row_size,
            blocks_per_row,
            BLOCK=BLOCK,
            COMPUTE=tl.float64 if wide else tl.float32,
            num_warps=WARPS,
        )
    return result


def specimens() -> list[Specimen]:
    """The kernel for images of 3x32x32 and weights in float32, half of which are 0."""
    return [
        Specimen(
            name=name,
            kernel=gate_rows_kernel,
            signature={
                "gradient": f"*{name}",
                "weights": "*fp32",
                "result": f"*{name}",
                "row_size": "i32",
                "blocks_per_row": "i32",
                "BLOCK": "constexpr",
                "COMPUTE": "constexpr",
            },
            constants={"BLOCK": BLOCK, "COMPUTE": compute},
            num_warps=WARPS,
            bytes_per_element=1.5 * size,
            floor_bytes_per_element=1.5 * size,
            note="half of the weights are 0: their rows are written and not read",
            multiples_of_16=("row_size",),
        )
        for name, size, compute in (
            ("fp32", 4, tl.float32),
            ("bf16", 2, tl.float32),
            ("fp64", 8, tl.float64),
        )
    ]
