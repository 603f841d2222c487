"""The exported program computes what the generator does, with torch's own operators."""

import pytest
import torch

from tests.engine.tiny import tiny_config
from topk_plugin.engine.building import build_generator
from topk_plugin.engine.export.program import generator_program, largest_difference
from topk_plugin.engine.networks.sampling import sampling_copy

NO_WIDTHS = {"g_conv_dim": "N/A", "d_conv_dim": "N/A"}
KINDS = {
    "resnet without classes": {
        "MODEL": {"backbone": "resnet", "g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}
        | {"g_shared_dim": "N/A", "z_prior": "uniform"}
    },
    "deep_conv": {"MODEL": {"backbone": "deep_conv", "g_shared_dim": "N/A"} | NO_WIDTHS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_becomes_a_program(kind: str) -> None:
    config = tiny_config(KINDS[kind])
    torch.manual_seed(0)
    generator = sampling_copy(build_generator(config))
    for name, parameter in generator.named_parameters():
        if name.endswith("sigma"):  # attention starts switched off
            parameter.fill_(0.7)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    program = generator_program(generator, config)
    assert largest_difference(program, generator, config) <= 1e-5
    after = generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # other weights are noticed
    for parameter in generator.parameters():
        parameter.mul_(1.01)
    assert largest_difference(program, generator, config) > 1e-5
