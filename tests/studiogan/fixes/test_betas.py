"""`beta1: 0`, as StyleGAN's configs have it."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from topk_plugin.studiogan.fixes import betas


def config_module() -> ModuleType:
    class Configurations:
        def __init__(self, beta1: Any, beta2: Any) -> None:
            self.OPTIMIZATION = SimpleNamespace(beta1=beta1, beta2=beta2)

        def define_optimizer(self, parameters: list[torch.Tensor]) -> torch.optim.Adam:
            o = self.OPTIMIZATION
            return torch.optim.Adam(parameters, betas=[o.beta1, o.beta2])

    module: Any = ModuleType("config")
    module.Configurations = Configurations
    return module


@pytest.mark.skipif(not betas.FIX.needed(), reason="this torch takes whole numbers")
def test_without_the_fix_adam_refuses_a_whole_number() -> None:
    with pytest.raises(ValueError, match="betas"):
        config_module().Configurations(0, 0.99).define_optimizer([torch.zeros(1)])


@pytest.mark.parametrize("given", [(0, 0.99), (0.5, 0.999)])
def test_with_it_the_optimizer_has_the_configs_betas(given: tuple[Any, Any]) -> None:
    module: Any = config_module()
    betas.FIX.after["config"](module)
    optimizer = module.Configurations(*given).define_optimizer([torch.zeros(1)])
    assert tuple(optimizer.defaults["betas"]) == given
