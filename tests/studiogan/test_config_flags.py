"""Flags that StudioGAN does not know: the one that was meant is named."""

from types import SimpleNamespace
from typing import Any

import pytest

from topk_plugin.studiogan.config_flags import adapt_configurations
from topk_plugin.studiogan.flags import TopKFlagError


class Configurations:
    """Refuses every setting, in StudioGAN's way."""

    def load_base_cfgs(self) -> None: ...

    def check_compatability(self) -> None: ...

    def _overwrite_cfgs(self, cfg_file: str) -> None:
        raise AttributeError(f"There is no '{cfg_file}' attribute.")


@pytest.fixture
def overwrite() -> Any:
    adapted = type("Adapted", (Configurations,), {})
    module: Any = SimpleNamespace(Configurations=adapted)
    adapt_configurations(module)
    return adapted()._overwrite_cfgs


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("LOSS.topk_gama", "topk_gamma"),
        ("LOSS.topk_normalise", "topk_normalize"),
        ("LOSS.topkpolicy", "topk_policy"),
        ("LOSS.topk_ev", "topk_every"),
        ("LOSS.apply_top_k", "apply_topk"),
        ("LOSS.top_k_nu", "topk_nu"),
        ("OPTIMIZATION.topk_nu", "topk_nu"),
    ],
)
def test_the_nearest_flag_is_named(overwrite: Any, given: str, meant: str) -> None:
    with pytest.raises(TopKFlagError) as caught:
        overwrite(given)
    assert str(caught.value) == f"{given} is no setting; did you mean LOSS.{meant}?"


@pytest.mark.parametrize("given", ["LOSS.apply_tac", "LOSS.cond_lamda", "MODEL.z_dimension", "x"])
def test_other_settings_keep_studiogans_message(overwrite: Any, given: str) -> None:
    with pytest.raises(AttributeError, match=f"There is no '{given}' attribute"):
        overwrite(given)
