import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from topk_plugin.engine.data.pixels import fit, fit_arrays, fit_many


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.integers(0, 9))
def test_fit_is_torchvisions_centre_crop_and_lanczos_resize(
    width: int, height: int, img_size: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(drawn)
    cropped = transforms.functional.center_crop(image, [min(width, height)] * 2)
    resize = transforms.Resize(img_size, interpolation=transforms.InterpolationMode.LANCZOS)
    expected = transforms.functional.pil_to_tensor(resize(cropped))
    assert torch.equal(torch.from_numpy(fit(image, img_size).copy()), expected)


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 3)])
@pytest.mark.parametrize("img_size", [6, 9])
def test_fit_arrays_is_fit_of_each(shape: tuple[int, ...], img_size: int) -> None:
    stack = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fitted = fit_arrays(stack, img_size)
    assert fitted.is_contiguous()
    for image, row in zip(stack, fitted, strict=True):
        assert (row.numpy() == fit(Image.fromarray(image), img_size)).all()


def test_fit_many_puts_each_image_in_its_place_and_raises_the_first_error() -> None:
    filled = fit_many(1000, 2, lambda i: np.full((3, 2, 2), i % 251, np.uint8))
    assert torch.equal(filled[:, 1, 0, 1].long(), torch.arange(1000) % 251)

    def fail(index: int) -> np.ndarray:
        raise ValueError(f"image {index}")

    with pytest.raises(ValueError, match="image 0"):
        fit_many(1, 2, fail)
