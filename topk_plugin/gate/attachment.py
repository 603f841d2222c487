"""A critic with the gate at its input: hooks that gate and select at every call."""

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.gate.call_arguments import (
    Argument,
    argument,
    class_labels,
    is_one_hot,
    map_samples,
    sample_tensors,
    with_argument,
)
from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.gated_step import CurrentStep, GatedStep
from topk_plugin.gate.scores import ScoreSpec, find_scores, mean_score
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.selector import Selector
from topk_plugin.gate.sign_check import SignCheck

_attached: "weakref.WeakKeyDictionary[nn.Module, Attachment]" = weakref.WeakKeyDictionary()


class Attachment:
    """What :meth:`topk_plugin.TopK.attach` returns: the gate on one critic, until removed.

    Args:
        critic, score, images, labels: see :meth:`topk_plugin.TopK.attach`.
        current: the generator step that is on.
        selector, sign, check: what the calls' scores are given to.

    Raises:
        TypeError: the critic is not a module that hooks can be put on.
        RuntimeError: the critic (or a part of it, or a module that contains it) has a gate.
        ValueError: the policy needs labels.
    """

    def __init__(
        self,
        critic: nn.Module,
        score: ScoreSpec,
        images: Argument,
        labels: Argument | None,
        *,
        current: CurrentStep,
        selector: Selector,
        sign: SignCheck,
        check: EffectCheck,
    ) -> None:
        _check_critic(critic)
        if selector.policy.needs_labels and labels is None:
            raise ValueError(
                f"policy={selector.policy.name!r} needs the classes: pass attach(..., "
                "labels=POSITION_OR_KEYWORD) of the critic's label argument"
            )
        self._score, self._images, self._labels = score, images, labels
        self._current, self._selector = current, selector
        self._sign, self._check = sign, check
        self._labels_are_one_hot: bool | None = None
        self._calls = _Calls()
        self._critic = weakref.ref(critic)
        # First to see the input and last to see the output, so that hooks of others stay inside
        # and see what they would see without the plugin.
        self._hooks: tuple[Any, ...] = (
            critic.register_forward_pre_hook(
                _CriticHook(self._gate_input), with_kwargs=True, prepend=True
            ),
            critic.register_forward_hook(_CriticHook(self._read_scores), with_kwargs=True),
        )
        vars(critic)["__reduce_ex__"] = _ReduceWithoutGate(critic)
        _attached[critic] = self
        current.attached = True

    def remove(self) -> None:
        """Take the gate off and leave the critic as it was; a second call does nothing.

        Raises:
            RuntimeError: called inside ``generator_step()``.
        """
        if self._current.step is not None:
            raise RuntimeError("remove() cannot be called inside generator_step()")
        for hook in self._hooks:
            hook.remove()
        critic = self._critic()
        if self._hooks and critic is not None:
            vars(critic).pop("__reduce_ex__", None)
            _attached.pop(critic, None)
            self._current.attached = False
        self._hooks = ()

    # --- hooks -----------------------------------------------------------------------------

    def _gate_input(
        self, critic: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        step = self._current.step
        if step is None:
            return None
        calls = self._calls.of(step)
        if self._current.paused or step.by_hand:
            calls.append(None)
            return None
        images = argument(args, kwargs, self._images, "images")
        tensors = sample_tensors(images)
        step.call_begins()
        if step.looks_first:
            calls.append(step.selection_of(tensors[0]))
            return None
        if not any(x.requires_grad for x in tensors):
            self._check.reason = "the images given to the critic do not require grad"
            calls.append(None)
            return None
        if _are_real(tensors, step):
            calls.append(None)
            return None
        selection = step.selection_of(tensors[0])
        calls.append(selection)
        self._check.reason = "no backward pass reached the images given to the critic"
        return with_argument(args, kwargs, self._images, map_samples(images, selection.gate))

    def _read_scores(
        self, critic: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        step = self._current.step
        if step is None:
            return
        calls = self._calls.of(step)
        if not calls:
            return
        selection = calls.pop()
        if selection is None or selection.mask is not None:
            return  # passed ungated, or selected from in an earlier call
        try:
            found, scores, classes = self._scored(selection, args, kwargs, output)
        except (ValueError, TypeError):
            if step.looks_first:
                return  # perhaps a call on real images; if not, it will raise when it is gated
            raise
        if not step.looks_first:
            if callable(self._score):
                self._sign.watch_through(output, found)
            else:
                self._sign.watch(found)
        step.choose(selection, scores, classes)

    def _scored(
        self, selection: Selection, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> tuple[Any, Tensor, Tensor | None]:
        """The scores as they are found in ``output``, one a sample [N], and their classes [N]."""
        found = find_scores(output, self._score)
        images = sample_tensors(argument(args, kwargs, self._images, "images"))
        shape = images[0].shape if len(images) == 1 else None
        scores = mean_score(found, selection.batch_size, shape, f"score={self._score!r}")
        classes = None
        if self._labels is not None:
            labels = argument(args, kwargs, self._labels, "labels")
            classes = self._classes(labels, selection.batch_size)
            if classes is None and self._selector.policy.needs_labels:
                raise ValueError(
                    f"policy={self._selector.policy.name!r} needs integer classes of shape "
                    f"{list(scores.shape)} (or one-hot) in the critic's argument {self._labels!r}"
                )
        return found, scores, classes

    def _classes(self, labels: Any, batch_size: int) -> Tensor | None:
        if isinstance(labels, Tensor) and labels.dim() == 2 and labels.shape[1] > 1:
            if self._labels_are_one_hot is None:  # one look, at the first batch
                self._labels_are_one_hot = is_one_hot(labels)
            if not self._labels_are_one_hot:
                return None
        return class_labels(labels, batch_size)


class _Calls(threading.local):
    """The critic's calls that are under way, innermost last; every thread has its own.

    Replicas of the critic run in threads, and calls of one thread are properly nested.
    """

    def __init__(self) -> None:
        self._step: GatedStep | None = None
        self._stack: list[Selection | None] = []

    def of(self, step: GatedStep) -> list[Selection | None]:
        """This thread's calls in ``step``."""
        if self._step is not step:
            self._step, self._stack = step, []
        return self._stack


class _CriticHook:
    """A hook that stays out of compiled graphs, and that does nothing in a copy of the critic.

    The hooks read Python state (k, whether a generator step is on), which torch.compile would
    build into its graphs and compile again for at every new k. Copies go through
    :class:`_ReduceWithoutGate` and have no hook; what gets around it takes this one along, idle.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = torch.compiler.disable(function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        # takes any arguments, returns None, and can be read where this package is not installed
        return getattr, (contextlib.nullcontext(), "__exit__")


class _ReduceWithoutGate:
    """Stands in for the critic's ``__reduce_ex__``: pickles and deep copies it without the gate.

    They are other critics, or files that are read where this package is not installed.
    """

    def __init__(self, critic: nn.Module) -> None:
        self._critic = weakref.ref(critic)

    def __call__(self, protocol: Any) -> Any:
        critic = self._critic()
        assert critic is not None  # it is being copied
        kind = type(critic)
        twin = kind.__new__(kind)
        state = dict(vars(critic))
        del state["__reduce_ex__"]
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            state[name] = OrderedDict(
                (key, hook)
                for key, hook in state[name].items()
                if not isinstance(hook, _CriticHook)
            )
            flags = f"{name}_with_kwargs"
            state[flags] = OrderedDict((k, v) for k, v in state[flags].items() if k in state[name])
        vars(twin).update(state)
        return kind.__reduce_ex__(twin, protocol)


def _check_critic(critic: object) -> None:
    if isinstance(critic, torch.jit.ScriptModule):
        raise TypeError(
            "attach() can't put hooks on a ScriptModule: attach to nn.Sequential(critic) and call "
            "that, or use step.gate() and step.select()"
        )
    if not isinstance(critic, nn.Module):
        raise TypeError(
            f"attach() needs a torch.nn.Module, not a {type(critic).__name__}: for a function, or "
            "for several critics, use step.gate() and step.select() inside generator_step()"
        )
    if any(
        other is critic or other in set(critic.modules()) or critic in set(other.modules())
        for other in _attached
    ):
        raise RuntimeError(
            "this critic (or a module inside or around it) has a TopK attached already, and "
            "two gates would weight the gradient twice; call remove() on the first handle"
        )


def _are_real(images: list[Tensor], step: GatedStep) -> bool:
    """Whether images that require grad are real ones, of a gradient penalty, say.

    No generator is behind them, though one was behind others in this step. (Recomputed calls of a
    checkpointed critic see images without a generator too, in the backward pass.)
    """
    if any(x.grad_fn is not None for x in images):
        step.saw_generated = True
        return False
    return step.saw_generated and torch._C._current_graph_task_id() == -1
