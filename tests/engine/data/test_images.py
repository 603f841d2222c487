import hashlib

import pytest
import torch

from topk_plugin.engine.data.images import ImageSet


def image_set(images: torch.Tensor, labels: torch.Tensor, classes: int = 2) -> ImageSet:
    return ImageSet(images, labels, tuple("abcdefgh"[:classes]), "Tiny", "made by a test")


def pixels(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(torch.uint8)


def test_fingerprint_is_sha256_of_shape_images_and_labels() -> None:
    images, labels = pixels(2, 3, 4, 4), torch.tensor([1, 0])
    expected = hashlib.sha256(
        b"(2, 3, 4, 4)" + bytes(images.flatten().tolist()) + labels.numpy().tobytes()
    ).hexdigest()
    assert image_set(images, labels).fingerprint() == expected


def test_fingerprint_changes_with_pixels_labels_and_shape_but_not_names() -> None:
    images, labels = pixels(2, 3, 4, 4), torch.tensor([1, 0])
    first = image_set(images, labels).fingerprint()
    other_pixel = images.clone()
    other_pixel[1, 2, 3, 3] += 1
    assert image_set(other_pixel, labels).fingerprint() != first
    assert image_set(images, labels.flip(0)).fingerprint() != first
    assert image_set(images.reshape(2, 3, 2, 8), labels).fingerprint() != first
    assert ImageSet(images, labels, ("x", "y"), "Other", "elsewhere").fingerprint() == first


@pytest.mark.parametrize(
    ("images", "labels", "error"),
    [
        (pixels(2, 3, 4, 4).float(), torch.tensor([0, 1]), TypeError),
        (pixels(2, 3, 4, 4), torch.tensor([0, 1], dtype=torch.int32), TypeError),
        (pixels(2, 1, 4, 4), torch.tensor([0, 1]), ValueError),
        (pixels(2, 3, 4), torch.tensor([0, 1]), ValueError),
        (pixels(2, 3, 4, 4), torch.tensor([0, 1, 0]), ValueError),
        (pixels(2, 3, 4, 4), torch.tensor([0, 2]), ValueError),
        (pixels(2, 3, 4, 4), torch.tensor([-1, 0]), ValueError),
        (pixels(2, 4, 4, 3).permute(0, 3, 1, 2), torch.tensor([0, 1]), ValueError),
    ],
)
def test_wrong_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"images|labels"):
        image_set(images, labels)
