"""The network with its published weights, against timm's, and as an extractor."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F

from tests.evaluation.record_efficientnet_lite0 import RECORDED, SIZES, picture
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.evaluation import efficientnet_lite0 as module
from topk_plugin.evaluation.efficientnet_lite0 import (
    EfficientNetLite0,
    SamePadConv,
    load_efficientnet_lite0,
)
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
from topk_plugin.evaluation.imagenet_extractor import INPUT_SIZE, ImagenetExtractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return load_efficientnet_lite0()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_equals_timms_network(network, size):
    """Recorded by record_efficientnet_lite0; an odd size and sizes with uneven padding."""
    recorded = json.loads(RECORDED.read_text())[str(size)]
    features, logits = network(picture(size))
    assert features.shape == (2, 1280)
    torch.testing.assert_close(
        features[:, ::64], torch.tensor(recorded["features"]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        features.norm(dim=1), torch.tensor(recorded["length"]), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        logits[:, ::50], torch.tensor(recorded["logits"]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [5, 8, 11])
def test_same_padding_is_tensorflows(kernel, stride, size):
    """ceil(size / stride) outputs, the larger half of the padding after the image."""
    conv = SamePadConv(2, 2, kernel, stride, groups=2, bias=False)
    x = torch.randn(1, 2, size, size + 3)
    padded_sides = []
    for side in (size + 3, size):
        outputs = math.ceil(side / stride)
        total = max((outputs - 1) * stride + kernel - side, 0)
        padded_sides += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(x, padded_sides), conv.weight, stride=stride, groups=2)
    assert expected.shape[2:] == (math.ceil(size / stride), math.ceil((size + 3) / stride))
    torch.testing.assert_close(conv(x), expected)


def test_maps_at_four_depths(network):
    maps = network.maps(picture(75))
    shapes = [tuple(found.shape[1:]) for found in maps]
    assert shapes == [(24, 19, 19), (40, 10, 10), (112, 5, 5), (320, 3, 3)]
    features = network.head(maps[-1]).mean(dim=(2, 3))
    torch.testing.assert_close(network(picture(75))[0], features)


def test_gradients_reach_the_images_through_the_frozen_network(network):
    """Against a difference quotient, as a critic on projected features needs them."""
    exact = copy.deepcopy(network).double()
    images = picture(32).double().requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()

    def value(x):
        return sum(found.square().mean() for found in exact.maps(x))

    value(images).backward()
    step = 1e-6
    with torch.no_grad():
        slope = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    assert (images.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)
    assert abs(slope.item()) > 1e-4


def test_a_loaded_network_is_frozen_and_its_own(network):
    other = load_efficientnet_lite0()
    assert not other.training
    assert not any(p.requires_grad for p in other.parameters())
    other.classifier.bias.data.zero_()
    assert network.classifier.bias.abs().sum() > 0


def test_other_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "changed_package"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "PACKAGE", "changed_package")
    for content in (None, b"other weights"):
        if content is not None:
            (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"not the published file.*force-reinstall"):
            load_efficientnet_lite0()
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"not installed.*topk-plugin\[imagenet\]"):
        load_efficientnet_lite0()


def test_extractor_resizes_and_gives_an_images_features_in_any_batch(stripes):
    extractor = ImagenetExtractor("x", ["pooled", "logits"])
    images = stripes(n=3).images
    features, logits = extractor(images)
    assert (features.shape, logits.shape) == ((3, 1280), (3, 1000))
    resized = F.interpolate(
        images.float() / 127.5 - 1, size=(INPUT_SIZE,) * 2, mode="bicubic", antialias=True
    )
    torch.testing.assert_close(features, extractor.network(resized)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(extractor(images[1:2])[0][0], features[1], rtol=1e-3, atol=1e-3)
    (only_logits,) = ImagenetExtractor("x", ["logits"])(images)
    torch.testing.assert_close(only_logits, logits)


def test_values_carry_the_networks_name_and_facts(stripes):
    data = stripes(n=40)
    evaluator = Evaluator(
        data, metrics=["kid", "is", "prdc"], extractor="imagenet", device=CPU, seed=0
    )
    values = evaluator.evaluate(ImageSet(data.images, data.labels, ("a", "b"), "x", "x").images)
    assert list(values) == [
        *("kernel_distance_imagenet", "classifier_score_imagenet"),
        *("precision", "recall", "density", "coverage"),
    ]
    assert values["precision"] == values["coverage"] == 1
    described = json.loads(json.dumps(evaluator.describe(40)))
    assert described["extractor"] == "imagenet"
    assert described["network"] == "EfficientNet-Lite0"
    assert described["input_size"] == INPUT_SIZE
    assert described["resize"] == "bicubic, antialiased"
    assert described["weights_sha256"] == module.WEIGHTS_SHA256
    assert described["feature_dims"] == 1280
    assert described["score_splits"] == 10


def test_another_input_size_is_another_extractor(stripes):
    choice = choose_extractor("imagenet", data_name="x", inception_weights=None)
    first = load_extractor(choice, data=stripes(), device=CPU)
    second = load_extractor(choice, data=stripes(), device=CPU, input_size=64)
    assert second.facts["input_size"] == 64
    assert first.weights_sha256 == second.weights_sha256
    assert first.fingerprint != second.fingerprint
