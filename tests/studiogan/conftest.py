from pathlib import Path

import pytest

from tests.studiogan.stand_in import write_checkout
from topk_plugin.studiogan.checkout import find_checkout, source_folder


@pytest.fixture(scope="session")
def studiogan_checkout() -> Path:
    """A real StudioGAN checkout, which tests must leave as it is."""
    checkout = find_checkout()
    if checkout is None:
        pytest.skip(
            "no StudioGAN checkout: run `topk-plugin studiogan clone`, or set STUDIOGAN_ROOT to one"
        )
    source_folder(checkout)  # one that was named but is none is a mistake, not a reason to skip
    return checkout


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A small checkout of our own in StudioGAN's place."""
    return write_checkout(tmp_path / "stand-in")
