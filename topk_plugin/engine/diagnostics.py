"""Is the critic a judge, and what does the gate change? Measured beside the training, on request.

Nothing here moves the training: networks' buffers and random streams are put back, and the latents
are its own, the same at every look.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.critic_scores import critic_scores
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.methods.registry import needs_of
from topk_plugin.engine.methods.topk import TopKTerm, topk_of
from topk_plugin.engine.networks.frozen_statistics import frozen_batch_statistics
from topk_plugin.engine.sample_grid import to_uint8
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.ranking import score_distance_correlation
from topk_plugin.gate.policies import keep_mask

SEED = 2022
SAMPLES = 256
REFERENCES = 2000


class Diagnostics:
    """Looks at a training; see :meth:`measure`.

    Args:
        trainer: the GAN in training.
        images: the training images.
        evaluator: whose features tell distances, with ``images`` as its reference; None: the rank
            correlation is left out.
    """

    def __init__(self, trainer: Trainer, images: ImageSet, evaluator: Evaluator | None) -> None:
        self._trainer, self._evaluator = trainer, evaluator
        source = LatentSource(trainer.config, seed=SEED, device=trainer.device)
        count = max(SAMPLES, trainer.config.OPTIMIZATION.batch_size)
        self._latents, self._labels = source.latents(count), source.labels(count)
        # evenly over the set: files come sorted by class
        places = torch.linspace(0, len(images) - 1, min(SAMPLES, len(images))).round().long()
        self._places, self._real = places, images.images[places]
        self._real_labels = images.labels[places].to(trainer.device)
        self._all_labels = images.labels
        self._conditional = trainer.config.MODEL.g_cond_mtd != "W/O"
        self._nearby: Tensor | None = None
        radius = needs_of(trainer.config).nearby
        if radius is not None:
            self._nearby = source.nearby(self._latents, radius)

    def measure(self) -> dict[str, float]:
        """Tag -> value, of the training as it is now.

        ``diagnostics/auc_real_vs_fake``: the share of pairs of a real and a generated image in
        which the critic scores the real one higher (0.5: it can't tell them apart);
        ``diagnostics/score_spread_real``, ``.../score_spread_fake``: standard deviations of scores;
        ``diagnostics/rank_correlation``: see
        :func:`~topk_plugin.evaluation.ranking.score_distance_correlation`, with an evaluator;
        ``diagnostics/gradient_cosine``, ``.../gradient_norm_ratio``: the generator's gradient
        through the gate against that of the whole batch, with the gate on (cosine; norm over norm);
        ``diagnostics/seconds``: what all of it took. A value that is undefined is left out.
        """
        started = time.perf_counter()
        with untouched(self._trainer):
            values = self._of_scores() | self._of_gradients()
        values = {f"diagnostics/{name}": value for name, value in values.items()}
        values = {tag: value for tag, value in values.items() if math.isfinite(value)}
        return values | {"diagnostics/seconds": time.perf_counter() - started}

    def _of_scores(self) -> dict[str, float]:
        trainer = self._trainer
        trainer.generator.train()  # as the critic sees them in training
        latents, labels = self._latents[:SAMPLES], self._labels[:SAMPLES]
        with torch.no_grad(), frozen_batch_statistics(trainer.generator):
            batch = trainer.config.OPTIMIZATION.batch_size
            pairs = zip(latents.split(batch), labels.split(batch), strict=True)
            fakes = torch.cat([trainer.generator(z, y) for z, y in pairs])
        if not fakes.isfinite().all():
            return {}
        pixels = to_uint8(fakes)
        on_fake = critic_scores(trainer, pixels, labels)
        on_real = critic_scores(trainer, self._real, self._real_labels)
        if not (on_fake.isfinite().all() and on_real.isfinite().all()):
            return {}
        values = {
            "auc_real_vs_fake": auc(on_real, on_fake),
            "score_spread_real": float(on_real.double().std()),
            "score_spread_fake": float(on_fake.double().std()),
        }
        if self._evaluator is not None and len(self._evaluator.reference.features):
            values["rank_correlation"] = self._rank_correlation(self._evaluator, pixels, on_fake)
        return values

    def _rank_correlation(self, evaluator: Evaluator, pixels: Tensor, scores: Tensor) -> float:
        features = evaluator.features(pixels.cpu())
        reference = evaluator.reference.features
        stride = max(1, len(reference) // REFERENCES)
        conditional = self._conditional and len(self._all_labels) == len(reference)
        return score_distance_correlation(
            scores,
            features,
            reference[::stride],
            labels=self._labels[:SAMPLES].cpu() if conditional else None,
            real_labels=self._all_labels[::stride] if conditional else None,
        )

    # --- gradients ---------------------------------------------------------------------------

    def _of_gradients(self) -> dict[str, float]:
        """Of one batch of the training's size."""
        term = topk_of(self._trainer.terms)
        if term is None or term.topk is None:
            return {}
        trainer, count = self._trainer, self._trainer.config.OPTIMIZATION.batch_size
        latents, labels = self._latents[:count], self._labels[:count]
        trainer.generator.train()
        trainer.critic.train()
        with frozen_batch_statistics(trainer.generator):
            images = trainer.generator(latents, labels)
            nearby = None
            if self._nearby is not None:
                nearby = trainer.generator(self._nearby[:count], labels)
        gradient, scores = self._at_the_critic(Fakes(images, labels, nearby))
        weights = _weights(term, scores, labels, trainer)
        parameters = [p for p in trainer.generator.parameters() if p.requires_grad]
        full = _flat_gradient(images, parameters, gradient)
        gated = _flat_gradient(images, parameters, gradient * weights)
        norms = full.norm(), gated.norm()
        # 0 / 0 is NaN, which is left out
        cosine, ratio = torch.dot(full, gated) / (norms[0] * norms[1]), norms[1] / norms[0]
        return {"gradient_cosine": float(cosine), "gradient_norm_ratio": float(ratio)}

    def _at_the_critic(self, fakes: Fakes) -> tuple[Tensor, Tensor]:
        """The generator's loss differentiated at the critic's input, and the scores.

        What the loss has beside the critic (zCR's distance) is not in it, as it is not gated.
        """
        trainer = self._trainer
        leaf = fakes.images.detach().requires_grad_()
        scores: list[Tensor] = []

        def give_leaf(module: nn.Module, args: Any, kwargs: Any) -> Any:
            first = bool(args) and args[0] is fakes.images
            return ((leaf, *args[1:]) if first else args), kwargs

        def remember(module: nn.Module, args: Any, output: Any) -> None:
            scores.append(output["adv_output"].detach())

        real = None
        if needs_of(trainer.config).real_in_generator_update:
            wrapped = torch.arange(len(fakes.images)) % len(
                self._real
            )  # a small set, a large batch
            pixels = self._real[wrapped].to(trainer.device).float() / 127.5 - 1
            labels = self._real_labels[wrapped.to(trainer.device)]
            real = Batch(pixels, labels, self._places[wrapped].to(trainer.device))
        with ExitStack() as hooks:
            entrance = trainer.objectives.critic_input
            hooks.callback(entrance.register_forward_pre_hook(give_leaf, with_kwargs=True).remove)
            hooks.callback(entrance.register_forward_hook(remember).remove)
            loss = trainer.objectives.of_generator(fakes, real)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient, scores[0]


def auc(higher: Tensor, lower: Tensor) -> float:
    """The share of pairs in which a value of ``higher`` [N] exceeds one of ``lower`` [M].

    Ties count half: the area under the ROC curve (Mann and Whitney's U over N M).
    """
    both = torch.cat([higher, lower]).double()
    _, inverse, counts = both.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts - 1) / 2)[inverse]  # from 1; ties share the mean of their ranks
    n, m = len(higher), len(lower)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """What runs inside leaves no trace in the training: buffers, modes and random streams."""
    networks = (trainer.generator, trainer.critic)
    buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    modes = [network.training for network in networks]
    augmentation = trainer.augmentation.get_state()
    on_gpu = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu):
        torch.manual_seed(derive_seed(SEED, "diagnostics"))
        trainer.augmentation.manual_seed(derive_seed(SEED, "diagnostics, augmentation"))
        try:
            yield
        finally:
            trainer.augmentation.set_state(augmentation)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for network, mode in zip(networks, modes, strict=True):
                network.train(mode)


def _weights(term: TopKTerm, scores: Tensor, labels: Tensor, trainer: Trainer) -> Tensor:
    """[N, 1, 1, 1]: what the gate would multiply each image's gradient by."""
    assert term.topk is not None
    settings, count = term.topk.settings, len(scores)
    k = term.schedule.k(trainer.progress.of(term.schedule), count)
    noise = torch.Generator(scores.device)
    noise.manual_seed(derive_seed(SEED, "diagnostics, policy"))
    policy = settings.policy
    mask = keep_mask(scores, k, policy=policy, labels=labels, generator=noise)
    weights = mask.to(scores.dtype) * (count / k if settings.normalize == "kept" else 1.0)
    return weights[:, None, None, None]


def _flat_gradient(images: Tensor, parameters: list[nn.Parameter], at_images: Tensor) -> Tensor:
    """The gradient of the generator's parameters, as one vector in double precision."""
    found = torch.autograd.grad(
        images, parameters, at_images.to(images.dtype), retain_graph=True, allow_unused=True
    )
    return torch.cat([part.flatten().double() for part in found if part is not None])
