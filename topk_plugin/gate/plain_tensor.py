"""Tensors of other people's classes."""

from torch import Tensor

_PLAIN_DISPATCH = Tensor.__torch_dispatch__


def plain(x: Tensor) -> Tensor:
    """``x`` as a plain tensor where its class only adds methods to one.

    A subclass that overrides ``to()``, say (BigGAN's latents do), passes its class on to every
    tensor computed from it. Classes with storage or operations of their own (DTensor, fake and
    functional tensors) stay what they are.
    """
    if type(x) is Tensor or type(x).__torch_dispatch__ is not _PLAIN_DISPATCH:
        return x
    return x.as_subclass(Tensor)
