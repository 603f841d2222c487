"""A kernel with types and constants as a launch on a GPU has them, to compile it without one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Specimen:
    """One specialisation of a kernel, with what it costs.

    Attributes:
        name: what it is, unique in its file, such as "forward, bf16".
        kernel: the function decorated with triton.jit.
        signature: argument -> triton type ("*fp32", "i32", "fp32", or "constexpr"), all arguments
            in the kernel's order. Pointers are taken to be multiples of 16 bytes, as torch
            allocates them.
        constants: the values of the arguments of type "constexpr".
        num_warps: as in the launch.
        bytes_per_element: what the kernel moves between chip and memory, per element of the image.
        floor_bytes_per_element: what any kernel for it must move.
        note: for the report: which sizes, and where the two numbers come from.
        multiples_of_16: integer arguments that are multiples of 16 at these sizes, which triton
            finds out at the launch and uses to load more at a time.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    bytes_per_element: float
    floor_bytes_per_element: float
    note: str
    multiples_of_16: tuple[str, ...] = ()
