"""A small labelled image set that a classifier can learn, and a private cache folder."""

import pytest
import torch

from topk_plugin.engine.data.images import ImageSet


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache for the tests that need a trained extractor but don't look at the training."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_test_touches_the_users_cache(shared_cache, monkeypatch):
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(shared_cache))


@pytest.fixture
def cache(no_test_touches_the_users_cache, tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(folder))
    return folder


@pytest.fixture
def stripes():
    """stripes(n, classes): noisy horizontal (class 0) and vertical (class 1) stripes, 16x16."""

    def make(n: int = 96, classes: int = 2, seed: int = 0, name: str = "Stripes") -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % classes
        wave = torch.sin(torch.arange(16) * 1.2 + 6 * torch.rand(n, 1, generator=generator))
        horizontal = wave[:, :, None].expand(n, 16, 16)
        pattern = torch.where(labels[:, None, None] == 0, horizontal, horizontal.mT)
        noise = torch.randn(n, 3, 16, 16, generator=generator)
        images = (128 + 80 * pattern[:, None] + 15 * noise).clamp(0, 255).to(torch.uint8)
        names = tuple(str(index) for index in range(classes))
        return ImageSet(images.contiguous(), labels, names, name, "made by the test")

    return make
