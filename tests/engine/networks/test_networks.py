"""Shapes, ranges and refusals of the two networks."""

import pytest
import torch
from torch import nn

from topk_plugin.engine.building import build_critic, build_generator
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.networks.sampling import sampling_copy

MODEL = {
    "backbone": "big_resnet",
    "g_cond_mtd": "cBN",
    "d_cond_mtd": "2C",
    "normalize_d_embed": True,
    "d_embed_dim": 12,
    "apply_g_sn": True,
    "apply_d_sn": True,
    "apply_attn": True,
    "attn_g_loc": (2,),
    "attn_d_loc": (1,),
    "z_dim": 60,
    "g_shared_dim": 5,
    "g_conv_dim": 4,
    "d_conv_dim": 8,
}


def config(data: dict | None = None, **model: object) -> Config:
    return Config.unchecked(DATA=data or {}, MODEL={**MODEL, **model})


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_also_at_batch_one(size, batch):
    settings = config({"img_size": size, "num_classes": 7})
    generator, critic = build_generator(settings), build_critic(settings)
    labels = torch.randint(7, (batch,))
    images = generator(torch.randn(batch, 60), labels)
    assert images.shape == (batch, 3, size, size)
    assert images.abs().max() <= 1
    outputs = critic(images, labels)
    assert outputs["adv_output"].shape == (batch,)
    assert outputs["embed"].shape == outputs["proxy"].shape == (batch, 12)
    assert outputs["h"].ndim == 2
    assert torch.equal(outputs["label"], labels)
    torch.testing.assert_close(outputs["embed"].norm(dim=1), torch.ones(batch))


@pytest.mark.parametrize(
    ("conditioning", "keys"),
    [
        ("W/O", {"h", "adv_output", "label"}),
        ("PD", {"h", "adv_output", "label", "class_logit"}),
        ("AC", {"h", "adv_output", "label", "cls_output"}),
        ("2C", {"h", "adv_output", "label", "embed", "proxy"}),
        ("D2DCE", {"h", "adv_output", "label", "embed", "proxy"}),
    ],
)
@pytest.mark.parametrize("backbone", ["big_resnet", "deep_conv"])
def test_critic_returns_what_its_conditioning_has(backbone, conditioning, keys):
    model = config(backbone=backbone, d_cond_mtd=conditioning)
    critic = build_critic(model)
    outputs = critic(torch.rand(2, 3, 32, 32), torch.tensor([0, 9]))
    assert outputs.keys() == keys
    if conditioning == "AC":
        assert outputs["cls_output"].shape == (2, 10)
        torch.testing.assert_close(outputs["h"].norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("backbone", ["resnet", "deep_conv"])
@pytest.mark.parametrize("conditional", [True, False])
def test_older_generators_use_the_label_as_it_is(backbone, conditional):
    method = "cBN" if conditional else "W/O"
    model = config(backbone=backbone, g_cond_mtd=method, g_shared_dim=None, z_dim=7)
    generator = build_generator(model).eval()
    z = torch.randn(1, 7).expand(10, 7)
    images = generator(z, torch.arange(10))
    assert images.shape == (10, 3, 32, 32)
    different = (images[1:] - images[:1]).abs().amax((1, 2, 3)) > 1e-4
    assert bool(different.all()) == conditional
    assert bool(different.any()) == conditional


def test_projection_depends_on_the_label_by_the_embedding_only():
    critic = build_critic(config(d_cond_mtd="PD"))
    critic.double().eval()  # fresh u, v make large scores
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 5, 6])
    a, b = critic(images, first), critic(images, second)
    difference = ((critic.embedding(first) - critic.embedding(second)) * a["h"]).sum(1)
    torch.testing.assert_close(a["adv_output"] - b["adv_output"], difference)


def test_unconditional_generator_ignores_labels_and_conditional_does_not():
    z = torch.randn(2, 60)
    for conditioning, same in (("W/O", True), ("cBN", False)):
        generator = build_generator(config(g_cond_mtd=conditioning))
        generator = sampling_copy(generator)
        images = [generator(z, torch.full((2,), label)) for label in (0, 1)]
        assert torch.equal(*images) is same


def test_every_part_of_the_latent_vector_matters():
    generator = build_generator(config())
    z = torch.randn(3, 60, requires_grad=True)
    generator(z, torch.tensor([3, 1, 4])).square().sum().backward()
    assert (z.grad.view(3, 4, 15).abs().amax(2) > 1e-6).all()


def test_activation_leaves_the_images_alone():
    images = torch.randn(2, 3, 32, 32)
    before = images.clone()
    build_critic(config(d_cond_mtd="W/O"))(images, torch.zeros(2))
    assert torch.equal(images, before)


@pytest.mark.parametrize("init", ["ortho", "N02", "glorot", "xavier"])
@pytest.mark.parametrize("spectral", [True, False])
def test_initialisation(init, spectral):
    model = config(g_init=init, apply_g_sn=spectral, g_conv_dim=16, z_dim=80)
    generator = build_generator(model)
    layer = generator.blocks[0][0].conv2d1
    weight = (layer.weight_orig if spectral else layer.weight).detach().flatten(1)
    assert weight.shape == (64, 576)
    if init == "ortho":
        torch.testing.assert_close(weight @ weight.t(), torch.eye(64), atol=1e-5, rtol=0)
    else:
        deviation = 0.02 if init == "N02" else (2 / (576 + 576)) ** 0.5
        assert weight.std().item() == pytest.approx(deviation, rel=0.03)
    linear = [module for module in generator.modules() if isinstance(module, nn.Linear)]
    assert all(module.bias is None or not module.bias.any() for module in linear)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 61}, "z_dim is 61.*divide by 4"),
        ({"g_shared_dim": None}, "g_shared_dim is None"),
        ({"g_act_fn": "Swish"}, "activation is 'Swish'.*ReLU"),
        ({"g_init": "zeros"}, "initialization is 'zeros'.*ortho"),
        ({"g_conv_dim": 1}, "4 channels.*at least 8"),
        ({"g_conv_dim": None}, "g_conv_dim is None"),
    ],
)
def test_generator_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        build_generator(config(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_embed_dim": None}, "embed_dim is None"),
        ({"d_cond_mtd": "MH"}, "d_cond_mtd is 'MH'"),
        ({"d_cond_mtd": "D2DCE", "d_embed_dim": None}, "embed_dim is None; d_cond_mtd 'D2DCE'"),
        ({"d_conv_dim": None}, "d_conv_dim is None"),
    ],
)
def test_critic_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        build_critic(config(**change))


def test_other_image_sizes_are_refused():
    data = {"img_size": 48}
    for build in (build_generator, build_critic):
        with pytest.raises(ValueError, match="img_size is 48; allowed: 32, 64, 128"):
            build(config(data))
    data = {"img_size": 64}
    for build in (build_generator, build_critic):
        with pytest.raises(ValueError, match="img_size is 64; allowed with deep_conv: 32"):
            build(config(data, backbone="deep_conv"))
