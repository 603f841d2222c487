"""One selection: the batch's samples that the generator learns from, and the gate that obeys it."""

import torch
from torch import Tensor

from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.gradient_gate import gradient_gate, gradient_gate_in_graph


class Selection:
    """Gates tensors first, and learns which of their rows are kept afterwards.

    Args:
        batch_size: rows of every tensor that it gates.
        check: is told what happens.

    Attributes:
        mask: [B] bool, True for kept samples, of all ranks under ``scope="global"``; None until
            :meth:`fill`.
        scores: [B] the critic's scores.
        labels: [B] integer classes, or None.
        acted: a gradient came back to the gate.
    """

    def __init__(self, batch_size: int, check: EffectCheck) -> None:
        self.batch_size = batch_size
        self.mask: Tensor | None = None
        self.scores: Tensor | None = None
        self.labels: Tensor | None = None
        self.acted = False
        self._own_weights: Tensor | None = None
        self._check = check
        self._gates_a_gradient = False  # a compiled backward pass can't tell

    def gate(self, x: Tensor) -> Tensor:
        """``x`` [N, ...], whose gradient will be weighted as :meth:`fill` says."""
        if torch.compiler.is_compiling():
            if self._own_weights is None:
                dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
                self._own_weights = torch.empty(self.batch_size, dtype=dtype, device=x.device)
            self._gates_a_gradient |= x.requires_grad
            return gradient_gate_in_graph(x, self._own_weights)
        gated = gradient_gate(x, self._weights)
        if gated.requires_grad and self._check.counts_rows:
            gated.register_hook(self._observe)
        return gated

    def fill(
        self, mask: Tensor, own_weights: Tensor, scores: Tensor, labels: Tensor | None
    ) -> None:
        """What was selected.

        Args:
            mask, scores, labels: see the class.
            own_weights: [N] weights of this rank's rows.
        """
        self.mask, self.scores, self.labels = mask, scores, labels
        if self._own_weights is None:
            self._own_weights = own_weights
        else:
            self._own_weights.copy_(own_weights)
        if self._gates_a_gradient:
            self._check.gate_acted()

    @property
    def weights(self) -> Tensor:
        """[N] weights of this rank's rows.

        Raises:
            RuntimeError: before :meth:`fill`.
        """
        if self._own_weights is None:
            raise RuntimeError(
                "the gradient came back to the gated samples before their scores were known: call "
                "the critic (or step.select()) before backward()"
            )
        return self._own_weights

    def _weights(self) -> Tensor:
        """Called by the gate in the backward pass."""
        weights = self.weights
        self.acted = True
        self._check.gate_acted()
        if torch.is_grad_enabled():
            self._check.gate_acted_on_a_penalty()
        return weights

    def _observe(self, gradient: Tensor) -> None:
        if self._own_weights is not None:
            self._check.gradient_arrived(gradient, self._own_weights)
