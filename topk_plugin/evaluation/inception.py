"""torch-fidelity's Inception network: where its weights are, and loading them safely."""

import hashlib
import http.client
import socket
import sys
from pathlib import Path, PurePosixPath

import torch
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from topk_plugin.base.errors import UserError

WEIGHTS_NAME = PurePosixPath(URL_INCEPTION_V3).name
PUBLISHED_SHA256_PREFIX = WEIGHTS_NAME.removesuffix(".pth").rsplit("-", 1)[-1]
CONNECTION_TIMEOUT = 10.0
"""Seconds without an answer after which there is no network."""


class DownloadFailed(Exception):
    """The weights could not be downloaded; the message is the reason."""


def hub_weights_path() -> Path:
    """Where torch-fidelity keeps its Inception weights: torch hub's checkpoint folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME


def download_weights() -> Path:
    """Download torch-fidelity's published weights (91 MB) to ``hub_weights_path()``.

    The file is checked against the hash in its name before it is put in place.

    Raises:
        DownloadFailed: no network, no answer within ten seconds, wrong content, unwritable folder.
    """
    path = hub_weights_path()
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            URL_INCEPTION_V3,
            str(path),
            hash_prefix=PUBLISHED_SHA256_PREFIX,
            progress=sys.stderr.isatty(),
        )
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadFailed(reason) from error
    finally:
        socket.setdefaulttimeout(timeout_before)
    return path


def load_inception(path: Path) -> FeatureExtractorInceptionV3:
    """The Inception extractor with the weights in ``path``: layers "2048" and "logits_unbiased".

    Raises:
        UserError: the file is missing, damaged, or not these weights.
    """
    remedy = "give torch-fidelity's weights file, or delete this one to have it downloaded again"
    try:
        # torch-fidelity unpickles whatever it is given: refuse here what is not plain tensors.
        torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"The Inception weights {path} do not exist; {remedy}") from error
    # A damaged file makes torch.load raise nearly anything.
    except Exception as error:
        raise UserError(
            f"The Inception weights {path} can't be read ({type(error).__name__}); {remedy}"
        ) from error
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold the weights of torch-fidelity's Inception network; {remedy}"
        ) from error


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
