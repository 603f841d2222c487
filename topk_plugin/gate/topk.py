"""TopK: a schedule, a selection and a gradient gate on one critic."""

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from topk_plugin.gate import ranks as distributed
from topk_plugin.gate.batch_statistics import TopKStatistics
from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.policies import POLICIES, draw_noise, keep_mask_of
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.scores import ScoreSpec, extract_scores

Scope = Literal["rank", "global"]
Normalize = Literal["kept", "batch"]
Argument = int | str

STATE_VERSION = 1

_attached: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[TopK]]" = weakref.WeakKeyDictionary()


class NoEffectWarning(UserWarning):
    """Top-k training is set up in a way that cannot change anything."""


class TopK:
    """Top-k training (Sinha et al., NeurIPS 2020, arXiv 2002.06224) of any PyTorch GAN.

    In the generator's update the gradient of every generated sample that the critic does not
    score among the best k is zeroed at the critic's input, whichever loss it comes from::

        topk = TopK(KSchedule(gamma=0.99, nu=0.75))
        topk.attach(critic)
        ...
        with topk.generator_step():
            loss = g_loss(critic(generator(z)))
            loss.backward()
        topk.end_step()          # after each generator update
        topk.end_epoch()         # after each pass over the data

    Args:
        schedule: how k moves.
        policy: which samples are kept, see :func:`topk_plugin.keep_mask`.
        scope: ``"rank"``: each process selects in its own batch; ``"global"``: one selection over
            the batches of all ranks (which must be of equal size).
        normalize: ``"kept"``: kept rows weigh B/k, so that a mean over the batch becomes the mean
            over the kept samples, which is what StudioGAN and every other public implementation
            optimise; ``"batch"``: weights 1 and 0, the paper's literal zeroing.
        higher_is_better: the critic gives its best samples the highest score. False for critics
            trained the other way round.
        seed: of the ``"random"`` policy's own generator, which leaves torch's global one alone.

    Raises:
        ValueError: an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        schedule: KSchedule,
        *,
        policy: str = "top",
        scope: Scope = "rank",
        normalize: Normalize = "kept",
        higher_is_better: bool = True,
        seed: int = 0,
    ) -> None:
        if not isinstance(schedule, KSchedule):
            raise ValueError(f"schedule must be a KSchedule, not a {type(schedule).__name__}")
        for name, value, allowed in (
            ("policy", policy, tuple(POLICIES)),
            ("scope", scope, get_args(Scope)),
            ("normalize", normalize, get_args(Normalize)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        if not isinstance(higher_is_better, bool):
            raise ValueError(f"higher_is_better must be True or False, not {higher_is_better!r}")
        if schedule.gamma == 1.0 or schedule.nu == 1.0:
            _warn(
                f"k can never drop under the batch size with gamma={schedule.gamma} and "
                f"nu={schedule.nu}; both must be under 1 for top-k training to do anything"
            )
        self.schedule = schedule
        self.policy = policy
        self.scope = scope
        self.normalize = normalize
        self.higher_is_better = higher_is_better
        self._seed = seed
        self._generator: torch.Generator | None = None
        self._generator_state: Tensor | None = None
        self._steps = 0
        self._epochs = 0
        self._critic: nn.Module | None = None
        self._in_generator_step = False
        self._paused = False
        self._selections: list[_Selection] = []
        self._awaiting_scores: list[_Selection | None] = []
        self._last: _Selection | None = None
        self._nonfinite_total: Tensor | None = None
        self._fired_in_step = False
        self._fired_in_epoch = False
        self._reason_not_fired = "generator_step() was never entered"
        self._warned_about_k = False

    # --- attaching -------------------------------------------------------------------------

    def attach(
        self,
        critic: nn.Module,
        score: ScoreSpec = None,
        *,
        images: Argument = 0,
        labels: Argument | None = None,
    ) -> "AttachHandle":
        """Install the gate at the critic's input; it acts inside :meth:`generator_step` only.

        Attach to the module that the training loop calls: the DistributedDataParallel,
        DataParallel or torch.compile wrapper if there is one.

        Args:
            critic: the module that scores samples.
            score: where its output holds the scores: a key, an index, a callable, or None for a
                plain tensor or a list of scales. Patch and multi-scale outputs are reduced to one
                score a sample.
            images: position or keyword of the critic's argument that holds the generated samples
                (a tensor, or a list or tuple of tensors with one row a sample, for critics that
                look at several scales).
            labels: position or keyword of the argument that holds integer classes [N]; needed by
                ``policy="balanced"``, otherwise only used for statistics (and ignored there when it
                holds something else).

        Returns:
            A handle whose ``remove()`` leaves the critic as it was.

        Raises:
            RuntimeError: this TopK is attached already, or the critic (or a part of it, or a
                module that contains it) has a TopK attached.
            ValueError: ``policy="balanced"`` without labels.
        """
        if self._critic is not None:
            raise RuntimeError(
                "this TopK is attached to a critic already; call remove() on its handle first, or "
                "make a second TopK"
            )
        if any(
            other is critic or other in set(critic.modules()) or critic in set(other.modules())
            for other in _attached
        ):
            raise RuntimeError(
                "this critic (or a module inside or around it) has a TopK attached already, and "
                "two gates would weight the gradient twice; call remove() on the first handle"
            )
        if POLICIES[self.policy].needs_labels and labels is None:
            raise ValueError(
                f"policy={self.policy!r} needs the classes: pass attach(..., "
                "labels=POSITION_OR_KEYWORD) of the critic's label argument"
            )
        self._critic = critic
        self._score, self._images, self._labels = score, images, labels
        _attached[critic] = weakref.ref(self)
        hooks = (
            # First to see the input and last to see the output, so that hooks of others stay
            # inside and see what they would see without the plugin.
            critic.register_forward_pre_hook(
                _CriticHook(self._gate_input), with_kwargs=True, prepend=True
            ),
            critic.register_forward_hook(_CriticHook(self._read_scores), with_kwargs=True),
        )
        return AttachHandle(self, critic, hooks)

    @contextmanager
    def generator_step(self) -> Iterator[None]:
        """Gate the critic's calls in this block: forward and backward of the generator's update.

        Every call whose images require grad is gated by a selection of its own, made from that
        call's scores; a second call on the very same tensor (ADC-GAN's, for instance) shares the
        selection of the first. Calls on images that do not require grad (real ones) pass through.

        Raises:
            RuntimeError: nothing is attached, or the block is entered twice.
        """
        if self._critic is None:
            raise RuntimeError("attach this TopK to a critic before generator_step()")
        if self._in_generator_step:
            raise RuntimeError("generator_step() is active already; it cannot be nested")
        self._reason_not_fired = "the critic was not called inside generator_step()"
        self._in_generator_step = True
        try:
            yield
        finally:
            self._in_generator_step = False
            self._selections.clear()
            self._awaiting_scores.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the critic's calls in this block pass ungated, also inside :meth:`generator_step`.

        For calls that are not the scored batch, such as those of latent optimisation (LOGAN),
        whose images require grad too.
        """
        before = self._paused
        self._paused = True
        try:
            yield
        finally:
            self._paused = before

    # --- schedule --------------------------------------------------------------------------

    @property
    def progress(self) -> int:
        """Epochs (or whole blocks of ``schedule.every`` steps) that are over."""
        every = self.schedule.every
        return self._epochs if every == "epoch" else self._steps // every

    @property
    def fraction(self) -> float:
        """The fraction of a batch that is kept now."""
        return self.schedule.fraction(self.progress)

    @property
    def k(self) -> int:
        """Samples kept now, of a batch (over all ranks when ``scope="global"``) like the last one.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        if self._last is None or self._last.mask is None:
            raise RuntimeError(
                "k is known once a batch has passed the gate; before that ask "
                "schedule.k(progress, batch_size)"
            )
        return self.schedule.k(self.progress, self._last.mask.shape[0])

    @property
    def acted(self) -> bool:
        """Whether the gate has acted on a gradient since the last :meth:`end_step`."""
        return self._fired_in_step

    def end_step(self) -> None:
        """Tell the schedule that one generator update is over.

        Warns:
            NoEffectWarning: the gate did not act on the update's gradient; says why.
        """
        if not self._fired_in_step:
            _warn(f"the top-k gate did not act in this generator update: {self._reason_not_fired}")
        self._fired_in_step = False
        self._steps += 1

    def end_epoch(self) -> None:
        """Tell the schedule that one pass over the data is over.

        Warns:
            NoEffectWarning: the gate did not act on any gradient in it; says why.
        """
        if not self._fired_in_epoch:
            _warn(f"the top-k gate did not act in this epoch: {self._reason_not_fired}")
        self._fired_in_epoch = False
        self._epochs += 1

    # --- state -----------------------------------------------------------------------------

    @property
    def stats(self) -> TopKStatistics:
        """Statistics of the last gated batch as tensors on its device; reading one synchronises.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        if self._last is None or self._last.mask is None or self._nonfinite_total is None:
            raise RuntimeError("statistics are known once a batch has passed the gate")
        return TopKStatistics(
            scores=self._last.scores,
            mask=self._last.mask,
            labels=self._last.labels,
            fraction=self.fraction,
            nonfinite_total=self._nonfinite_total,
            higher_is_better=self.higher_is_better,
        )

    def state_dict(self) -> dict[str, Any]:
        """Progress (never an absolute k) and the random policy's generator, for a checkpoint."""
        generator_state = self._generator_state
        if self._generator is not None:
            generator_state = self._generator.get_state()
        total = self._nonfinite_total
        return {
            "version": STATE_VERSION,
            "steps": self._steps,
            "epochs": self._epochs,
            "nonfinite_total": 0 if total is None else int(total.item()),
            "rank": distributed.rank(),
            "generator_state": generator_state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; batch size and number of ranks may differ from then.

        The random policy goes on exactly on the rank and kind of device that the state came from;
        elsewhere its noise is drawn anew.

        Raises:
            ValueError: the state is of another version or lacks an entry.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"this TopK reads state of version {STATE_VERSION}, not {state.get('version')!r}"
            )
        needed = {"steps", "epochs", "nonfinite_total", "rank", "generator_state"}
        missing = needed - state.keys()
        if missing:
            raise ValueError(f"the TopK state lacks {', '.join(sorted(missing))}")
        self._steps, self._epochs = int(state["steps"]), int(state["epochs"])
        self._nonfinite_total = torch.tensor(int(state["nonfinite_total"]))
        self._generator = None  # made anew, from this state, on the device of the next batch
        same_rank = state["rank"] == distributed.rank()
        self._generator_state = state["generator_state"] if same_rank else None

    # --- hooks -----------------------------------------------------------------------------

    def _gate_input(
        self, critic: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._in_generator_step:
            return None
        if self._paused:
            self._awaiting_scores.append(None)
            return None
        images = _argument(args, kwargs, self._images, "images")
        tensors = _image_tensors(images)
        if not any(x.requires_grad for x in tensors):
            self._reason_not_fired = "the images given to the critic do not require grad"
            self._awaiting_scores.append(None)
            return None
        selection = next((s for s in self._selections if s.is_for(tensors[0])), None)
        if selection is None:
            selection = _Selection(self, tensors[0])
            self._selections.append(selection)
        self._awaiting_scores.append(selection)
        self._reason_not_fired = "no backward pass reached the images given to the critic"
        gated = _map_images(images, lambda x: gradient_gate(x, selection.weights))
        return _with_argument(args, kwargs, self._images, gated)

    def _read_scores(
        self, critic: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self._awaiting_scores:
            return
        selection = self._awaiting_scores.pop()
        if selection is None or selection.mask is not None:
            return  # images without gradient, or selected from in an earlier call
        scores = extract_scores(output, self._score, selection.batch_size)
        labels = None
        if self._labels is not None:
            labels = _integer_labels(_argument(args, kwargs, self._labels, "labels"), scores)
        if labels is None and POLICIES[self.policy].needs_labels:
            raise ValueError(
                f"policy={self.policy!r} needs integer classes of shape {list(scores.shape)} in "
                f"the critic's argument {self._labels!r}"
            )
        self._select(selection, scores, labels)

    @torch.no_grad()
    def _select(self, selection: "_Selection", scores: Tensor, labels: Tensor | None) -> None:
        if not self.higher_is_better:
            scores = -scores
        policy = POLICIES[self.policy]
        noise = None
        if policy.needs_noise:
            noise = draw_noise(scores, self._random_generator(scores.device))
        if self.scope == "global":
            scores = distributed.gather_batch(scores)
            labels = None if labels is None else distributed.gather_batch(labels)
            # every rank has drawn for its own samples only, and now all see the same noise
            noise = None if noise is None else distributed.gather_batch(noise)
        batch_size = scores.shape[0]
        k = self.schedule.k(self.progress, batch_size)
        mask = keep_mask_of(policy, scores, k, labels=labels, noise=noise)
        own = distributed.own_part(mask) if self.scope == "global" else mask
        kept_weight = batch_size / k if self.normalize == "kept" else 1.0
        # B/k in single precision would cost a float64 gradient half of its digits
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        selection.own_weights = own.to(dtype) * kept_weight
        selection.mask, selection.labels = mask, labels
        selection.scores = scores if self.higher_is_better else -scores
        nonfinite = (~torch.isfinite(scores)).sum()
        if self._nonfinite_total is None:
            self._nonfinite_total = nonfinite
        else:
            self._nonfinite_total = self._nonfinite_total.to(nonfinite.device) + nonfinite
        self._last = selection
        self._warn_if_k_cannot_drop(batch_size)

    def _random_generator(self, device: torch.device) -> torch.Generator:
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
            saved = self._generator_state
            # the states of a CPU's and a GPU's generator are of different sizes
            if saved is not None and saved.shape == self._generator.get_state().shape:
                self._generator.set_state(saved)
            else:
                self._generator.manual_seed(
                    hash((self._seed, distributed.rank(), self._steps)) % 2**63
                )
        return self._generator

    def _note_gate_fired(self) -> None:
        self._fired_in_step = self._fired_in_epoch = True
        self._reason_not_fired = "generator_step() was not entered"

    def _warn_if_k_cannot_drop(self, batch_size: int) -> None:
        if self._warned_about_k or self.schedule.gamma == 1.0:
            return
        self._warned_about_k = True
        if self.schedule.lowest_k(batch_size) == batch_size:
            _warn(
                f"k can never drop under the batch size of {batch_size} with "
                f"nu={self.schedule.nu}; use a larger batch or a smaller nu"
            )


class AttachHandle:
    """What :meth:`TopK.attach` returns."""

    def __init__(self, topk: TopK, critic: nn.Module, hooks: tuple[Any, ...]) -> None:
        self._topk, self._critic, self._hooks = topk, critic, hooks

    def remove(self) -> None:
        """Take the gate off and leave the critic as it was; a second call does nothing.

        Raises:
            RuntimeError: called inside ``generator_step()``.
        """
        if self._topk._in_generator_step:
            raise RuntimeError("remove() cannot be called inside generator_step()")
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            _attached.pop(self._critic, None)
            self._topk._critic = None
        self._hooks = ()


class _CriticHook:
    """A hook that stays out of compiled graphs, and that copies of the critic don't take along.

    The hooks read Python state (k, whether a generator step is on), which torch.compile would
    build into its graphs and compile again for at every new k. A copied or unpickled critic is
    another critic: it carries a hook that does nothing, and may be attached to.
    """

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = None if function is None else torch.compiler.disable(function)

    def __call__(self, *arguments: Any) -> Any:
        return None if self._function is None else self._function(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_CriticHook":
        return _CriticHook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _CriticHook, (None,)


class _Selection:
    """The samples kept of one batch; filled when the critic's scores are there."""

    own_weights: Tensor | None = None
    mask: Tensor | None = None
    scores: Tensor
    labels: Tensor | None = None

    def __init__(self, topk: TopK, images: Tensor) -> None:
        self._topk = topk
        self._images = weakref.ref(images)
        self.batch_size = images.shape[0]

    def is_for(self, images: Tensor) -> bool:
        return self._images() is images

    def weights(self) -> Tensor:
        """Called by the gate in the backward pass."""
        if self.own_weights is None:
            raise RuntimeError(
                "the gradient came back to the critic's input before the critic's scores were read"
            )
        self._topk._note_gate_fired()
        return self.own_weights


def _warn(message: str) -> None:
    warnings.warn(message, NoEffectWarning, stacklevel=3)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], where: Argument, name: str) -> Any:
    try:
        return args[where] if isinstance(where, int) else kwargs[where]
    except (IndexError, KeyError):
        raise ValueError(
            f"attach({name}={where!r}) names an argument that the critic was not called with: it "
            f"got {len(args)} positional ones and keywords {sorted(kwargs)}"
        ) from None


def _with_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], where: Argument, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(where, int):
        return (*args[:where], value, *args[where + 1 :]), kwargs
    return args, {**kwargs, where: value}


def _integer_labels(labels: Any, scores: Tensor) -> Tensor | None:
    """[N] int64, or None for what is not one class a sample (one-hot, None, embeddings)."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        return None
    return labels.detach().long() if labels.shape == scores.shape else None


def _image_tensors(images: Any) -> list[Tensor]:
    tensors = list(images) if isinstance(images, list | tuple) else [images]
    if not tensors or not all(isinstance(x, Tensor) and x.dim() > 0 for x in tensors):
        raise ValueError(
            "the critic's images must be a tensor [N, ...] or a list or tuple of such tensors, not "
            f"{type(images).__name__}; attach(images=...) says which argument they are"
        )
    return tensors


def _map_images(images: Any, function: Any) -> Any:
    if isinstance(images, Tensor):
        return function(images)
    mapped = [function(x) for x in images]
    # a named tuple takes its fields one by one
    return type(images)(*mapped) if hasattr(images, "_fields") else type(images)(mapped)
