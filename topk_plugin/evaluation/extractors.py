"""Which feature extractor a run is measured with, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.builtin_extractor import builtin_extractor, weights_digest
from topk_plugin.evaluation.inception import (
    PUBLISHED_SHA256_PREFIX,
    DownloadFailed,
    download_weights,
    file_digest,
    hub_weights_path,
    load_inception,
)
from topk_plugin.evaluation.labelled_images import LabelledImages

CHOICES = ("auto", "inception", "builtin")


@dataclass(frozen=True)
class ExtractorChoice:
    """The decision.

    Attributes:
        name: "inception" or "builtin".
        weights: the Inception weights file; None for "builtin".
        reason: one line for people.
    """

    name: str
    weights: Path | None
    reason: str


@dataclass(frozen=True)
class LoadedExtractor:
    """An extractor ready for use on its device.

    Attributes:
        name: "inception" or "builtin".
        module: takes uint8 [N, 3, S, S], gives a tuple of layers.
        weights_sha256: tells extractors apart whose numbers must not be compared.
        facts: what result.json says of it, beyond the name.
    """

    name: str
    module: FeatureExtractorBase
    weights_sha256: str
    facts: dict[str, Any]


def choose_extractor(
    extractor: str, *, data_name: str, inception_weights: Path | None
) -> ExtractorChoice:
    """Decide between Inception and the built-in extractor.

    "auto" takes Inception if its weights are given, are in torch hub's folder or can be downloaded,
    else the built-in extractor; for the bundled Digits nothing is ever downloaded.

    Raises:
        UserError: unknown choice; weights given that don't exist or that "builtin" would ignore;
            "inception" demanded and no weights to be had.
    """
    if extractor not in CHOICES:
        raise UserError(
            f"Feature extractor {extractor!r} is unknown; take one of {', '.join(CHOICES)}"
        )
    if extractor == "builtin":
        if inception_weights is not None:
            raise UserError(
                f"The built-in extractor takes no Inception weights, but {inception_weights} was "
                "given; drop one of the two options"
            )
        return ExtractorChoice("builtin", None, "the built-in extractor was asked for")
    if inception_weights is not None:
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
                f"them at {hub_weights_path()}, or take the built-in extractor"
            ) from error
        return ExtractorChoice(
            "builtin", None, f"the Inception weights could not be downloaded ({error})"
        )
    return ExtractorChoice("inception", weights, "its weights were downloaded")


def load_extractor(
    choice: ExtractorChoice, *, data: LabelledImages, device: torch.device
) -> LoadedExtractor:
    """Load the chosen extractor to ``device``; the built-in one is trained on ``data`` if need be.

    Raises:
        UserError: unusable weights, too few images to train on, unwritable cache folder.
    """
    # Building a network draws its first weights from the global generator, read from a file or not.
    with torch.random.fork_rng(devices=[]):
        return _load(choice, data, device)


def _load(choice: ExtractorChoice, data: LabelledImages, device: torch.device) -> LoadedExtractor:
    if choice.weights is None:
        builtin = builtin_extractor(data, device=device)
        digest = weights_digest(builtin)
        return LoadedExtractor("builtin", builtin.to(device), digest, builtin.facts)
    inception = load_inception(choice.weights)
    digest = file_digest(choice.weights)
    facts = {
        "weights": choice.weights.name,  # results are shared, folders are not
        "weights_are_torch_fidelitys": digest.startswith(PUBLISHED_SHA256_PREFIX),
    }
    return LoadedExtractor("inception", inception.to(device), digest, facts)
