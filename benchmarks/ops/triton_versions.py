"""What differs between the versions of triton that torch 2.4 (triton 3.0) and later bring."""

import inspect
from pathlib import Path
from typing import Any

import triton

from topk_plugin.ops.kernels.specimen import Specimen

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def source_of(specimen: Specimen) -> Any:
    """The kernel with its types and constants, as triton.compile takes it."""
    from triton.compiler import ASTSource

    arguments = specimen.kernel.arg_names
    # what triton finds out about the arguments of a launch
    aligned = [
        arguments.index(name)
        for name, kind in specimen.signature.items()
        if kind.startswith("*") or name in specimen.multiples_of_16
    ]
    signature, constants = dict(specimen.signature), dict(specimen.constants)
    if "constexprs" in inspect.signature(ASTSource).parameters:  # triton 3.3 and newer
        attributes: Any = {(index,): [["tt.divisibility", 16]] for index in aligned}
        return ASTSource(specimen.kernel, signature, constexprs=constants, attrs=attributes)
    signature = {name: kind for name, kind in signature.items() if kind != "constexpr"}
    return ASTSource(specimen.kernel, signature, constants=constants, attrs=_descriptor(aligned))


def _descriptor(aligned: list[int]) -> Any:
    try:
        from triton.backends.compiler import AttrsDescriptor  # triton 3.2
    except ImportError:
        from triton.compiler.compiler import AttrsDescriptor  # triton 3.0 and 3.1

        return AttrsDescriptor(divisible_by_16=set(aligned), equal_to_1=set())
    return AttrsDescriptor.from_hints(dict.fromkeys(aligned, 16))


def program(name: str) -> str:
    """The path of "ptxas" or "cuobjdump" as triton brings it."""
    return str(BINARIES / name)
