"""Which extractor is taken, with no network anywhere."""

import socket
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation import efficientnet_lite0
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
from topk_plugin.evaluation.inception import (
    PUBLISHED_SHA256_PREFIX,
    DownloadFailed,
    download_weights,
    hub_weights_path,
    load_inception,
)

CPU = torch.device("cpu")
BY_HAND = Path("by_hand.pth")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Torch hub in an empty folder, and a network that is up or down as the test says."""

    network = SimpleNamespace(error=None, timeouts=[])

    def download(url, destination, hash_prefix=None, progress=True):
        assert url == feature_extractor_inceptionv3.URL_INCEPTION_V3
        assert hash_prefix == "6726825d"
        network.timeouts.append(socket.getdefaulttimeout())
        if network.error is not None:
            raise network.error
        Path(destination).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return network


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A file as torch-fidelity's, with random weights."""
    patch = pytest.MonkeyPatch()
    patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
    patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("random", ["2048"])
    patch.undo()
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


# option, data set, weights given, weights in the hub, network -> extractor, downloads tried
DECISIONS = [
    ("auto", "CIFAR10", True, False, "up", "inception", 0),
    ("auto", "Digits", True, False, "up", "inception", 0),
    ("auto", "Digits", False, True, "up", "builtin", 0),
    ("auto", "CIFAR10", False, True, "down", "inception", 0),
    ("auto", "CIFAR10", False, False, "up", "inception", 1),
    ("auto", "CIFAR10", False, False, "down", "imagenet", 1),
    ("auto", "CIFAR10", False, False, "down, no package", "builtin", 1),
    ("auto", "FashionMNIST", False, False, "down", "builtin", 1),
    ("auto", "FashionMNIST", False, False, "up", "inception", 1),
    ("inception", "Digits", False, True, "down", "inception", 0),
    ("inception", "Digits", False, False, "up", "inception", 1),
    ("inception", "CIFAR10", False, False, "down", "error", 1),
    ("builtin", "CIFAR10", False, True, "up", "builtin", 0),
    ("builtin", "CIFAR10", True, True, "up", "error", 0),
    ("imagenet", "Digits", False, True, "down", "imagenet", 0),
    ("imagenet", "CIFAR10", False, False, "no package", "error", 0),
    ("imagenet", "CIFAR10", True, False, "up", "error", 0),
    ("best", "CIFAR10", False, False, "up", "error", 0),
]


@pytest.mark.parametrize(
    ("option", "data", "given", "in_hub", "network", "expected", "tried"), DECISIONS
)
def test_decision(
    option, data, given, in_hub, network, expected, tried, downloads, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    BY_HAND.write_bytes(b"given")
    if in_hub:
        hub_weights_path().parent.mkdir(parents=True)
        hub_weights_path().write_bytes(b"in the hub")
    if "no package" in network:
        monkeypatch.setattr(efficientnet_lite0, "PACKAGE", "no_such_package")
    if network.startswith("down"):
        downloads.error = urllib.error.URLError("no route\nto host")

    def choose():
        return choose_extractor(
            option, data_name=data, inception_weights=BY_HAND if given else None
        )

    if expected == "error":
        with pytest.raises(UserError):
            choose()
    else:
        choice = choose()
        assert choice.name == expected
        assert choice.reason
        assert "\n" not in choice.reason
        if expected == "inception":
            assert choice.weights == (BY_HAND if given else hub_weights_path())
            assert choice.weights.is_file()
        else:
            assert choice.weights is None
            assert ("no route to host" in choice.reason) == (tried == 1)
            assert ("topk-plugin[imagenet]" in choice.reason) == ("no package" in network)
    assert len(downloads.timeouts) == tried


@pytest.mark.parametrize(
    "error", [TimeoutError(), RuntimeError("invalid hash value"), PermissionError("read-only")]
)
def test_download_has_a_short_timeout_that_is_put_back(downloads, error):
    downloads.error = error
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77.0)
    try:
        with pytest.raises(DownloadFailed, match=str(error) or "TimeoutError"):
            download_weights()
        assert downloads.timeouts == [10.0]
        assert socket.getdefaulttimeout() == 77.0
    finally:
        socket.setdefaulttimeout(before)


def test_missing_weights_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.pth do not exist"):
        choose_extractor("auto", data_name="Digits", inception_weights=Path("nowhere.pth"))


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "code was run")


def test_unusable_weights_are_refused(tmp_path):
    damaged, other, trap = tmp_path / "damaged.pth", tmp_path / "other.pth", tmp_path / "trap.pth"
    damaged.write_bytes(b"<html>not found</html>")
    torch.save({"fc.weight": torch.zeros(3)}, other)
    torch.save(Trap(tmp_path / "written"), trap)
    for path, sentence in [(damaged, "can't be read"), (other, "not hold"), (trap, "can't be")]:
        with pytest.raises(UserError, match=rf"{path.name}.*{sentence}"):
            load_inception(path)
    assert not (tmp_path / "written").exists()


def test_inception_run_uses_inception_for_every_metric(inception_file, stripes):
    data = stripes(n=12)
    evaluator = Evaluator(
        data,
        metrics=["fid", "kid", "is", "prdc"],
        inception_weights=inception_file,
        device=CPU,
        seed=0,
    )
    four = ("precision", "recall", "density", "coverage")
    assert evaluator.keys == ("fid", "kid", "inception_score", *four)
    described = evaluator.describe()
    assert described["extractor"] == "inception"
    assert described["feature_dims"] == 2048
    assert described["weights"] == inception_file.name
    assert not described["weights_are_torch_fidelitys"]
    assert not described["weights_sha256"].startswith(PUBLISHED_SHA256_PREFIX)
    # Without the Frechet distance, whose eigenvalues in 2048 dimensions take long.
    evaluator.metrics = ("kid", "is", "prdc")
    values = evaluator.evaluate(data.images)
    assert set(values) == {"kid", "inception_score", *four}
    assert all(values[key] == 1.0 for key in four)


def test_loading_leaves_the_global_random_state(inception_file, stripes):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for weights in (inception_file, None):
        choice = choose_extractor(
            "builtin" if weights is None else "auto", data_name="x", inception_weights=weights
        )
        load_extractor(choice, data=stripes(), device=CPU)
        load_extractor(choice, data=stripes(), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
