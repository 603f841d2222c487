"""Which feature extractor a run is measured with, and why."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.builtin_extractor import builtin_extractor, weights_digest
from topk_plugin.evaluation.efficientnet_lite0 import INSTALL, WEIGHTS_SHA256, is_installed
from topk_plugin.evaluation.extractor_names import CHOICES, NETWORKS
from topk_plugin.evaluation.imagenet_extractor import INPUT_SIZE, ImagenetExtractor
from topk_plugin.evaluation.inception import (
    PUBLISHED_SHA256_PREFIX,
    DownloadFailed,
    download_weights,
    file_digest,
    hub_weights_path,
    load_inception,
)
from topk_plugin.evaluation.labelled_images import LabelledImages

NOT_NATURAL = ("Digits", "FashionMNIST")
"""Data sets of which a network that knows photographs sees little; others are taken as natural."""


@dataclass(frozen=True)
class ExtractorChoice:
    """The decision.

    Attributes:
        name: "inception", "imagenet" or "builtin".
        weights: the Inception weights file; None for the others.
        reason: one line for people.
    """

    name: str
    weights: Path | None
    reason: str


@dataclass(frozen=True)
class LoadedExtractor:
    """An extractor ready for use on its device.

    Attributes:
        name: "inception", "imagenet" or "builtin".
        module: takes uint8 [N, 3, S, S], gives a tuple of layers.
        weights_sha256: of the weights.
        fingerprint: of all that decides the features: tells extractors apart whose numbers must
            not be compared.
        facts: what result.json says of it, beyond the name.
    """

    name: str
    module: FeatureExtractorBase
    weights_sha256: str
    fingerprint: str
    facts: dict[str, Any]


def refuse_unfit(extractor: str, unfit: Mapping[str, str]) -> None:
    """Refuse an extractor that the training itself was made with.

    Args:
        extractor: a name.
        unfit: such extractors -> the method that trains with each.

    Raises:
        UserError: it is one of them.
    """
    if extractor in unfit:
        others = [name for name in NETWORKS if name not in unfit]
        raise UserError(
            f"The extractor {extractor!r} is {NETWORKS[extractor]}, whose features the training "
            f"itself uses ({unfit[extractor]}), so its values would only say how well they were "
            f"fitted; take {' or '.join(map(repr, others))}"
        )


def choose_extractor(
    extractor: str,
    *,
    data_name: str,
    inception_weights: Path | None,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> ExtractorChoice:
    """Decide which extractor is taken.

    "auto" takes Inception if its weights are given, are in torch hub's folder or can be downloaded;
    else, for natural images, EfficientNet-Lite0 if it is installed; else the built-in extractor.
    For the bundled Digits nothing is ever downloaded. What is unfit is never taken.

    Args:
        extractor: of :data:`topk_plugin.evaluation.extractor_names.CHOICES`.
        data_name: of the images.
        inception_weights: a file with torch-fidelity's Inception weights.
        unfit: as :func:`refuse_unfit` has it.

    Raises:
        UserError: unknown choice, or one that is unfit; weights given that don't exist or that
            would be ignored;
            "inception" demanded and no weights to be had; "imagenet" demanded and not installed.
    """
    if extractor not in CHOICES:
        raise UserError(
            f"Feature extractor {extractor!r} is unknown; take one of {', '.join(CHOICES)}"
        )
    refuse_unfit(extractor, unfit)
    if extractor in ("builtin", "imagenet"):
        if inception_weights is not None:
            raise UserError(
                f"The extractor {extractor!r} takes no Inception weights, but {inception_weights} "
                "was given; drop one of the two options"
            )
        if extractor == "imagenet" and not is_installed():
            raise UserError(
                f"The extractor 'imagenet' is not installed; get it with {INSTALL}, or take the "
                "built-in extractor"
            )
        return ExtractorChoice(extractor, None, "asked for")
    if inception_weights is not None:
        refuse_unfit("inception", unfit)
        if not inception_weights.is_file():
            raise UserError(
                f"The Inception weights {inception_weights} do not exist; "
                "give the path of torch-fidelity's weights file"
            )
        return ExtractorChoice("inception", inception_weights, "its weights file was given")
    if extractor == "auto" and data_name == "Digits":
        return ExtractorChoice(
            "builtin", None, "for the bundled Digits nothing is downloaded, Inception's weights too"
        )
    if "inception" in unfit:
        return _without_inception(
            data_name, f"Inception's features are used in training ({unfit['inception']})", unfit
        )
    if hub_weights_path().is_file():
        return ExtractorChoice(
            "inception", hub_weights_path(), "its weights are in torch hub's folder"
        )
    try:
        weights = download_weights()
    except DownloadFailed as error:
        if extractor == "inception":
            raise UserError(
                f"The Inception weights could not be downloaded ({error}); give their path, put "
                f"them at {hub_weights_path()}, or take another extractor"
            ) from error
        return _without_inception(
            data_name, f"Inception's weights can't be downloaded: {error}", unfit
        )
    return ExtractorChoice("inception", weights, "its weights were downloaded")


def _without_inception(data_name: str, reason: str, unfit: Mapping[str, str]) -> ExtractorChoice:
    if data_name in NOT_NATURAL:
        return ExtractorChoice("builtin", None, f"{reason}; {data_name} are no natural images")
    if "imagenet" in unfit:
        return ExtractorChoice(
            "builtin",
            None,
            f"{reason}; those of 'imagenet' are used in training ({unfit['imagenet']})",
        )
    if is_installed():
        return ExtractorChoice("imagenet", None, reason)
    return ExtractorChoice("builtin", None, f"{reason}; better than this one is {INSTALL}")


def load_extractor(
    choice: ExtractorChoice,
    *,
    data: LabelledImages,
    device: torch.device,
    input_size: int = INPUT_SIZE,
) -> LoadedExtractor:
    """Load the chosen extractor to ``device``.

    Args:
        choice: what :func:`choose_extractor` gave.
        data: what the built-in extractor is trained on, if it is chosen and not in the cache.
        device: where it runs.
        input_size: to which EfficientNet-Lite0 resizes images, in pixels; another than the default
            is for comparing sizes.

    Raises:
        UserError: unusable or missing weights, too few images to train on, unwritable cache folder.
    """
    # Building a network draws its first weights from the global generator, read from a file or not.
    with torch.random.fork_rng(devices=[]):
        return _load(choice, data, device, input_size)


def _load(
    choice: ExtractorChoice, data: LabelledImages, device: torch.device, input_size: int
) -> LoadedExtractor:
    if choice.name == "builtin":
        builtin = builtin_extractor(data, device=device)
        digest = weights_digest(builtin)
        return LoadedExtractor("builtin", builtin.to(device), digest, digest, builtin.facts)
    if choice.name == "imagenet":
        layers = list(ImagenetExtractor.get_provided_features_list())
        imagenet = ImagenetExtractor("topk-plugin-imagenet", layers, input_size)
        decides = json.dumps({"sha256": WEIGHTS_SHA256, **imagenet.facts}, sort_keys=True)
        fingerprint = hashlib.sha256(decides.encode()).hexdigest()
        return LoadedExtractor(
            "imagenet", imagenet.to(device), WEIGHTS_SHA256, fingerprint, imagenet.facts
        )
    assert choice.weights is not None
    inception = load_inception(choice.weights)
    digest = file_digest(choice.weights)
    facts = {
        "weights": choice.weights.name,  # results are shared, folders are not
        "weights_are_torch_fidelitys": digest.startswith(PUBLISHED_SHA256_PREFIX),
    }
    return LoadedExtractor("inception", inception.to(device), digest, digest, facts)
