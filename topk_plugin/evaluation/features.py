"""Features of image sets, and the cache of a reference set's features."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, cache_folder
from topk_plugin.evaluation.extractors import LoadedExtractor
from topk_plugin.evaluation.labelled_images import LabelledImages, StoredImages
from topk_plugin.gate import ranks


@torch.no_grad()
def extract_features(
    extractor: LoadedExtractor,
    images: Tensor | StoredImages | Dataset[Any],
    *,
    device: torch.device,
    batch_size: int,
    what: str,
    shared: bool = False,
) -> dict[str, Tensor]:
    """Every layer of the extractor for all images: name -> float32 [N, D] on the CPU.

    A loop of our own, not a DataLoader: that would draw from the global random generator, and a
    training that is evaluated must end with the same weights as one that is not.

    Args:
        images: uint8 [N, 3, S, S], or a sized data set of such images [3, S, S] (or of tuples that
            begin with one).
        what: what the progress bar and errors call the images.
        shared: all processes call alike; they share the batches out, and all get all features.

    Raises:
        UserError: a feature is not finite.
    """
    n_images = count_images(images)
    own = ranks.own_block(n_images, batch_size) if shared else slice(0, n_images)
    module = extractor.module
    layers: dict[str, list[Tensor]] = {name: [] for name in module.get_requested_features_list()}
    progress = tqdm(
        total=own.stop - own.start,
        desc=f"features of {what}",
        unit="img",
        delay=2,
        leave=False,
        disable=True if ranks.rank() else None,
    )
    with progress:
        # a process without a batch of its own still has to know how long a feature is
        for start in range(own.start, max(own.stop, own.start + 1), batch_size):
            first = min(start, n_images - 1)
            batch = image_batch(images, first, min(first + batch_size, n_images)).to(device)
            for name, value in module.convert_features_tuple_to_dict(module(batch)).items():
                layers[name].append(value.float().cpu())
            progress.update(len(batch))
    found = {name: torch.cat(values)[: own.stop - own.start] for name, values in layers.items()}
    if shared:
        found = {n: ranks.gather_blocks(f, n_images, batch_size) for n, f in found.items()}
    for layer in found.values():
        check_finite(layer, what)
    return found


def check_finite(features: Tensor, what: str) -> None:
    """Refuse features [N, D] from which no metric can be computed.

    Pixels are always finite, so the extractor is at fault, or who computed them elsewhere.

    Raises:
        UserError: a feature is not finite.
    """
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise UserError(
            f"The features of {int((~finite).sum())} of {len(features)} images ({what}) are not "
            "finite, so no metric of them means anything; the extractor's weights are damaged: "
            "take another with --extractor, or delete the folder 'extractors' in the cache folder "
            "or the weights file that was given"
        )


def count_images(images: Tensor | StoredImages | Dataset[Any]) -> int:
    """How many images there are."""
    return len(images)  # type: ignore[arg-type]  # Dataset does not promise a length


def image_batch(images: Tensor | StoredImages | Dataset[Any], start: int, stop: int) -> Tensor:
    """Images ``start`` to ``stop`` as one tensor."""
    if not isinstance(images, Dataset):
        return images[start:stop]
    items = [images[index] for index in range(start, stop)]
    return torch.stack([item[0] if isinstance(item, tuple | list) else item for item in items])


def reference_features(
    extractor: LoadedExtractor,
    layer: str,
    reference: LabelledImages,
    *,
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """One layer's features of the reference set, float32 [N, D]: from the cache, else computed.

    The file is ``cache_folder()/features/<hash of images, extractor and layer>.pt``. One that can't
    be read is replaced, with a warning.

    Raises:
        UserError: the cache folder can't be written, or a feature is not finite.
    """
    key = f"{reference.fingerprint()} {extractor.fingerprint} {layer}"
    path = cache_folder() / "features" / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"
    if path.exists():
        try:
            return _read(path, len(reference.images))
        # A damaged file makes torch.load raise nearly anything.
        except Exception as error:
            warnings.warn(
                f"the cached features {path} can't be read ({type(error).__name__}): "
                "they are computed again",
                stacklevel=2,
            )
    features = extract_features(
        extractor,
        reference.images,
        device=device,
        batch_size=batch_size,
        what=reference.name,
    )[layer]
    with atomic_write(path) as temporary:
        torch.save(features, temporary)
    return features


def _read(path: Path, n_images: int) -> Tensor:
    features = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(features, Tensor) or features.shape[:1] != (n_images,):
        raise ValueError("not the features of this set")
    if not bool(features.isfinite().all()):
        raise ValueError("not finite")
    return features
