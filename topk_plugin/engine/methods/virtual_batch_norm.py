"""Virtual batch normalisation (Salimans et al. 2016, arXiv 1606.03498, section 3.5).

Every batch normalisation of a network becomes one by a fixed reference batch and the sample itself,
so that rows no longer depend on each other. The reference rows pass the network in front of every
batch, with the weights of now and with gradient, and never leave it: the generator's images and the
critic's features of them are cut off. In the critic they join behind the gate of top-k training,
which therefore ranks and gates the live rows alone.

The generator's reference are latent vectors and labels, drawn once; the authors do the same. The
critic's are training images, drawn once and never augmented; the authors' critic has another
scheme (half of its channels normalised by real and half by generated images).
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.methods.method import Gan, Method, Term
from topk_plugin.engine.networks.scoring import Head, Outputs, ScoringNetwork
from topk_plugin.engine.networks.virtual_batch_norm import replace_batch_norms, with_reference


def change_generator(generator: nn.Module, settings: Settings) -> nn.Module:
    """Make its batch normalisations virtual, and let reference latent vectors pass it first.

    Raises:
        ValueError: it has no batch normalisation.
    """
    rows = settings.MODEL.g_vbn_rows or settings.OPTIMIZATION.batch_size
    with torch.random.fork_rng(devices=[]):  # the critic's first weights stay what they were
        count = replace_batch_norms(generator, rows)
    if count == 0:
        raise ValueError("MODEL.apply_g_vbn replaces batch normalisation, and there is none")
    seed = derive_seed(torch.initial_seed(), "reference latents")
    source = LatentSource(settings, seed=seed, device=torch.device("cpu"))
    with_reference(generator, source.latents(rows), source.labels(rows))
    generator.register_forward_hook(_live_images)
    return generator


def _live_images(generator: Any, args: Any, images: Tensor) -> Tensor:
    return images[len(generator.reference) :]


class LiveHead(Head):
    """``head`` of the live rows alone."""

    def __init__(self, head: Head, rows: int) -> None:
        super().__init__(head.settings)
        self._head, self._rows = head, rows
        self.compared = head.compared  # type: ignore[misc]  # the wrapped head's

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        return self._head.outputs(critic, h[self._rows :], labels[self._rows :])


def change_critic(critic: nn.Module, settings: Settings) -> nn.Module:
    """Make its batch normalisations virtual, with room for reference images.

    Raises:
        ValueError: it has no batch normalisation, or ends in no head.
    """
    rows, size = (
        settings.MODEL.d_vbn_rows or settings.OPTIMIZATION.batch_size,
        settings.DATA.img_size,
    )
    if not isinstance(critic, ScoringNetwork) or replace_batch_norms(critic, rows) == 0:
        raise ValueError(
            "MODEL.apply_d_vbn replaces the batch normalisation of a critic that ends in a head, "
            "and this is none"
        )
    critic.head = LiveHead(critic.head, rows)
    with_reference(critic, torch.zeros(rows, 3, size, size), torch.zeros(rows, dtype=torch.int64))
    return critic


class ReferenceImages(Term):
    """Chooses the critic's reference; a checkpoint's takes its place."""

    def setup(self, gan: Gan) -> None:
        reference: Any = gan.critic
        rows = len(reference.reference)
        if rows > len(gan.images):
            raise UserError(
                f"MODEL.d_vbn_rows is {rows}, and there are {len(gan.images)} training images; "
                "lower it"
            )
        random = torch.Generator().manual_seed(derive_seed(gan.seed, "reference images"))
        chosen = torch.randperm(len(gan.images), generator=random)[:rows]
        pixels = gan.images.images[chosen].to(torch.float32).div_(127.5).sub_(1)
        reference.reference.copy_(pixels)
        reference.reference_labels.copy_(gan.images.labels[chosen])


def _check_critic(settings: Settings) -> None:
    if settings.MODEL.apply_d_sn:
        raise UserError(
            "MODEL.apply_d_vbn replaces the critic's batch normalisation, which it only has with "
            "MODEL.apply_d_sn False; set apply_d_sn to False, or leave apply_d_vbn out"
        )
    if settings.LOSS.apply_nice:
        raise UserError(
            "LOSS.apply_nice runs the critic's blocks on two draws of a batch, and "
            "MODEL.apply_d_vbn on a reference batch in front of it; use one of the two"
        )


def _rows(name: str) -> Key:
    return Key(
        "MODEL",
        name,
        None,
        Whole(1),
        ours=True,
        about="rows of the reference; N/A: as many as the batch",
    )


VIRTUAL_GENERATOR: Final = Method(
    "virtual batch norm of the generator",
    on=When("MODEL", "apply_g_vbn"),
    keys=(switch("MODEL", "apply_g_vbn", ours=True), _rows("g_vbn_rows")),
    change_generator=change_generator,
)
VIRTUAL_CRITIC: Final = Method(
    "virtual batch norm of the critic",
    on=When("MODEL", "apply_d_vbn"),
    term=lambda settings: ReferenceImages(),
    keys=(switch("MODEL", "apply_d_vbn", ours=True), _rows("d_vbn_rows")),
    check=_check_critic,
    change_critic=change_critic,
)
