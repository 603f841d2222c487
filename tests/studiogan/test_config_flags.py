"""Flags that StudioGAN does not know: the one that was meant is named."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.studiogan.small_worker import configurations
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


def test_studiogan_computes_with_numbers_and_is_not_asked_about_multi_hinge() -> None:
    """YAML reads 1e-1 as text; StudioGAN's own check refuses top-k for MHGAN, whose slice fails."""

    class Checking(Configurations):
        LOSS = configurations(topk_gamma="9e-1", topk_nu="5e-1").LOSS
        MODEL, RUN, OPTIMIZATION = (
            getattr(configurations(), name) for name in ("MODEL", "RUN", "OPTIMIZATION")
        )
        seen: Any = None

        def check_compatability(self) -> None:
            self.seen = self.LOSS.apply_topk

    adapt_configurations(cast(Any, SimpleNamespace(Configurations=Checking)))
    cfgs = Checking()
    cfgs.check_compatability()
    assert (cfgs.LOSS.topk_gamma, cfgs.LOSS.topk_nu) == (0.9, 0.5)
    assert cfgs.seen is False
    assert cfgs.LOSS.apply_topk is True
    cfgs.LOSS.topk_mode = "slice"
    cfgs.check_compatability()
    assert cfgs.seen is True
