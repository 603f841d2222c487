"""Spectral normalisation of all layers of a network at once.

Every weight W, seen as a matrix with one row an output, is divided by an estimate of its largest
singular value (Miyato et al. 2018, arXiv 1802.05957):

    v <- normalise(W' u),  u <- normalise(W v)      one power iteration a training forward
    sigma = u' W v,  weight = W / sigma             u and v are constants to the gradient

Three things make it cheaper than torch's hook on every layer, at the same u, v, sigma:

- W v is there when the iteration ends, so sigma costs a dot product of vectors: W is read three
  times and not four.
- The backward pass, (G - <G, W / sigma> u v') / sigma, is four operations a layer and not nine.
- A channels-last weight is read in the order in which it lies; torch's hook copies it first.

Where kernel launches are what costs, layers share them (``spectral_norm_stacked.py``).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from topk_plugin.ops.dispatch import implementation
from topk_plugin.ops.image_layout import is_channels_last
from topk_plugin.ops.own_precision import own_precision
from topk_plugin.ops.spectral_norm_stacked import normalise_stacks
from topk_plugin.ops.weight_matrices import as_matrix, as_vectors, from_memory_order


def spectral_weights(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    update: bool,
    eps: float,
    stacked: bool | None = None,
) -> list[Tensor]:
    """Divide every weight by its spectral norm, ``u' W v``.

    The gradient reaches the weights, through their spectral norms too, and may be differentiated
    again. Everything is computed in the weights' own dtype, under autocast as well (on a GPU
    torch's hook iterates in the lower precision there).

    Args:
        weights: floating-point, [rows, ...]; the matrix of a weight is [rows, columns] with
            columns the product of its other sizes.
        us: left singular vectors, [rows] each, of the weight's dtype and device.
        vs: right singular vectors, [columns] each, likewise.
        update: make one power iteration first and write its result into ``us`` and ``vs``.
        eps: a vector shorter than this is divided by this; over 0.
        stacked: put layers of one shape together, which takes a copy of all weights and saves
            kernel launches. None: on every device but the CPU, where the copy costs more.

    Returns:
        One tensor a weight, with its shape, dtype and memory format.

    Raises:
        ValueError: lists of different lengths, a vector that doesn't fit its weight, or eps.
    """
    if not len(weights) == len(us) == len(vs):
        raise ValueError(
            f"{len(weights)} weights, {len(us)} us and {len(vs)} vs are given; "
            "there must be one u and one v a weight"
        )
    if eps <= 0:
        raise ValueError(f"eps is {eps}; it must be over 0")
    for index, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        rows = weight.shape[0]
        if u.shape != (rows,) or v.shape != (weight.numel() // rows,):
            raise ValueError(
                f"u of shape {list(u.shape)} and v of shape {list(v.shape)} do not fit weight "
                f"{index} of shape {list(weight.shape)}"
            )
    weights, us, vs = list(weights), list(us), list(vs)
    return torch.ops.topk_plugin.spectral_weights(
        weights, us, vs, update=update, eps=eps, stacked=stacked
    )


def spectral_weights_reference(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    update: bool,
    eps: float,
) -> list[Tensor]:
    """What :func:`spectral_weights` computes, layer by layer and differentiated by torch."""
    normalised = []
    for weight, u, v in zip(weights, us, vs, strict=True):
        matrix = weight.reshape(weight.shape[0], -1)
        if update:
            with torch.no_grad():
                v.copy_(F.normalize(matrix.t().mv(u), dim=0, eps=eps))
                u.copy_(F.normalize(matrix.mv(v), dim=0, eps=eps))
        # Clones: the next forward pass changes u and v before this one's backward pass.
        sigma = torch.dot(u.clone(), matrix.mv(v.clone()))
        normalised.append(weight / sigma)
    return normalised


# Algebra over torch's own operators: torch.compile sees through it and fuses it.
torch.library.define(
    "topk_plugin::spectral_weights",
    "(Tensor[] weights, Tensor(a!)[] us, Tensor(b!)[] vs, *, bool update, float eps, "
    "bool? stacked=None) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::spectral_weights", "CompositeImplicitAutograd")
def _spectral_weights(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    *,
    update: bool,
    eps: float,
    stacked: bool | None = None,
) -> list[Tensor]:
    if not weights:
        return []
    device = weights[0].device
    with own_precision(device):
        if implementation("spectral_weights", device) == "reference":
            return spectral_weights_reference(weights, us, vs, update=update, eps=eps)
        if device.type == "cpu" if stacked is None else not stacked:
            layers = zip(weights, us, vs, strict=True)
            return [_normalise_one(*layer, update=update, eps=eps) for layer in layers]
        normalised = list(weights)
        kinds: dict[Any, list[int]] = {}
        for i, weight in enumerate(weights):
            kinds.setdefault((weight.dtype, weight.device), []).append(i)
        for kind in kinds.values():
            of_kind = ([tensors[i] for i in kind] for tensors in (weights, us, vs))
            results = normalise_stacks(*of_kind, update=update, eps=eps)
            for i, result in zip(kind, results, strict=True):
                normalised[i] = result
        return normalised


def _normalise_one(weight: Tensor, u: Tensor, v: Tensor, *, update: bool, eps: float) -> Tensor:
    """``weight`` divided by its spectral norm."""
    channels_last = is_channels_last(weight)
    inner_shape = weight.shape[1:]
    with torch.no_grad():
        matrix = as_matrix(weight, channels_last)
        if update:
            left, right = u, v
            v = _unit(torch.mv(matrix.t(), u), eps)
            product = torch.mv(matrix, v)
            u = _unit(product, eps)
            left.copy_(u)
            if channels_last:
                v = from_memory_order(v, inner_shape)
                right.view(inner_shape).copy_(v)
            else:
                right.copy_(v)
                v = v.view(inner_shape)
        else:
            v = v.view(inner_shape)
            product = torch.mv(matrix, as_vectors(v) if channels_last else v.reshape(-1))
    normalised: Tensor = _DivideBySpectralNorm.apply(weight, u, v, product)[0]
    return normalised


class _DivideBySpectralNorm(torch.autograd.Function):
    """``weight / (u' W v)``, and the divisor.

    ``weight`` is [rows, ...], ``u`` [rows], ``v`` the weight's other sizes, and ``product``, W v,
    [rows].
    """

    # forward() takes ctx itself: with setup_context torch binds the arguments anew by their
    # signature at every call, which costs as much as a small layer.
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, u: Tensor, v: Tensor, product: Tensor
    ) -> tuple[Tensor, Tensor]:
        sigma = torch.dot(u, product)
        normalised = weight / sigma
        # sigma is an output so that a second derivative knows that it depends on the weight
        ctx.save_for_backward(normalised, u, v, sigma)
        ctx.set_materialize_grads(False)
        return normalised, sigma

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        gradient, sigma_gradient = gradients
        normalised, u, v, sigma = ctx.saved_tensors
        column = u.view(-1, *[1] * (normalised.dim() - 1))
        row = v.unsqueeze(0)
        result = None
        if gradient is not None:
            along = column * _inner_product(gradient, normalised)
            result = torch.addcmul(gradient, along, row, value=-1).div_(sigma)
        if sigma_gradient is not None:
            outer = column * sigma_gradient * row
            result = outer if result is None else result + outer
        return result, None, None, None


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """``(a * b).sum()`` without room for the products."""
    channels_last = is_channels_last(b)
    return torch.dot(
        as_matrix(a, channels_last).reshape(-1), as_matrix(b, channels_last).reshape(-1)
    )


def _unit(vectors: Tensor, eps: float) -> Tensor:
    """Each row over its length, as torch.nn.functional.normalize has it, with less overhead."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min_(eps)


class BatchedSpectralNorm:
    """Makes a network compute its spectral normalisation at the start of its forward pass.

    ``module`` was built with ``torch.nn.utils.spectral_norm``. From now on a forward pass of
    ``module`` sets the weights of all normalised layers at once, by :func:`spectral_weights`, and
    the layers' own hooks stand by: they work, as torch's do, when a layer is called by itself, or
    a second time in the same pass. Parameters, buffers and state_dict stay as they are; each
    layer follows its own training mode; copies of the module are batched too. A layer that the
    pass does not reach makes its power iteration all the same, which torch's would not.

    Layers of torch's with more than one power iteration, or normalised along another dimension
    than the first (transposed convolutions), keep their hooks.

    Args:
        module: the network; it is changed in place. :meth:`remove` undoes it.

    Raises:
        ValueError: no layer of ``module`` can be batched.
        RuntimeError: a layer of ``module`` is batched already.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._norms: list[tuple[str, nn.Module, SpectralNorm]] = []
        for path, layer in module.named_modules():
            for hook in layer._forward_pre_hooks.values():
                if isinstance(hook, _StandbyHook):
                    raise RuntimeError(
                        f"layer {path!r} has a BatchedSpectralNorm already; remove that one first"
                    )
                if isinstance(hook, SpectralNorm) and _can_be_batched(hook):
                    self._norms.append((path, layer, hook))
        if not self._norms:
            raise ValueError(
                f"no layer of this {type(module).__name__} has torch.nn.utils.spectral_norm "
                "with one power iteration along dimension 0"
            )
        for _, layer, norm in self._norms:
            _replace_hook(layer, norm, _StandbyHook(norm))
        self._handles = (
            module.register_forward_pre_hook(self._set_weights, prepend=True),
            module.register_forward_hook(self._end_of_pass, always_call=True),
        )

    def remove(self) -> None:
        """Put torch's hooks back where they were. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        for _, layer, norm in self._norms:
            for hook in list(layer._forward_pre_hooks.values()):
                if isinstance(hook, _StandbyHook) and hook.original is norm:
                    _replace_hook(layer, hook, norm)
            layer.__dict__.pop(_ready(norm.name), None)

    def _set_weights(self, module: nn.Module, args: Any) -> None:
        alike: dict[tuple[float, bool], list[tuple[nn.Module, str]]] = {}
        for layer, norm in self._layers_of(module):
            alike.setdefault((norm.eps, layer.training), []).append((layer, norm.name))
        for (eps, training), layers in alike.items():
            weights = torch.ops.topk_plugin.spectral_weights(
                [getattr(layer, f"{name}_orig") for layer, name in layers],
                [getattr(layer, f"{name}_u") for layer, name in layers],
                [getattr(layer, f"{name}_v") for layer, name in layers],
                update=training,
                eps=eps,
            )
            for (layer, name), weight in zip(layers, weights, strict=True):
                setattr(layer, name, weight)
                setattr(layer, _ready(name), True)

    def _end_of_pass(self, module: nn.Module, args: Any, output: Any) -> None:
        for layer, norm in self._layers_of(module):
            if getattr(layer, _ready(norm.name)):
                setattr(layer, _ready(norm.name), False)

    def _layers_of(self, module: nn.Module) -> list[tuple[nn.Module, SpectralNorm]]:
        if module is self._module:
            return [(layer, norm) for _, layer, norm in self._norms]
        # a replica that torch.nn.DataParallel made shares the hooks, but has layers of its own
        return [(module.get_submodule(path), norm) for path, _, norm in self._norms]


class _StandbyHook(SpectralNorm):
    """Torch's hook ``original``, but idle where the weight was made for this very call."""

    def __init__(self, original: SpectralNorm) -> None:
        super().__init__(original.name, original.n_power_iterations, original.dim, original.eps)
        self.original = original

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if getattr(module, _ready(self.name), False):
            setattr(module, _ready(self.name), False)
        else:
            super().__call__(module, inputs)


def _can_be_batched(norm: SpectralNorm) -> bool:
    return norm.n_power_iterations == 1 and norm.dim == 0


def _ready(name: str) -> str:
    """The layer's attribute that says that parameter ``name`` was made for its next call."""
    return f"_{name}_is_ready"


def _replace_hook(layer: nn.Module, old: SpectralNorm, new: SpectralNorm) -> None:
    for key, hook in layer._forward_pre_hooks.items():
        if hook is old:
            layer._forward_pre_hooks[key] = new  # in its place among the layer's hooks
