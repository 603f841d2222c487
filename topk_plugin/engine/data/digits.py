"""scikit-learn's bundled handwritten digits: real images that need no download."""

import numpy as np
import torch
from PIL import Image

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.pixels import fit_arrays


def load_digits(*, name: str, img_size: int, split: str) -> ImageSet:
    """The 1797 8x8 gray digits, enlarged (bicubic) to uint8 [1797, 3, S, S], labels 0..9.

    They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin
    and C. Kaynak, 1998), as bundled with scikit-learn.

    Raises:
        UserError: a split other than train is asked for; there is none.
    """
    if split != "train":
        raise UserError(
            f"The bundled digits have no {split} split, only train; ask for train, or give "
            f"-data PATH with images of your own"
        )
    # Imported here because it takes a second that runs on other data need not wait.
    from sklearn.datasets import load_digits as load_bundled_digits

    bundled = load_bundled_digits()
    gray = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    return ImageSet(
        images=fit_arrays(gray, img_size, Image.Resampling.BICUBIC),
        labels=torch.from_numpy(bundled.target.astype(np.int64)),
        class_names=tuple("0123456789"),
        name=name,
        source=f"scikit-learn's bundled digits: {len(gray)} 8x8 images resized to {img_size}",
    )
