"""The values against oracles, their names, counts and reuse."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch.utils.data import TensorDataset

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation import features as features_module
from topk_plugin.evaluation import metrics as metrics_module
from topk_plugin.evaluation.builtin_extractor import BuiltinExtractor, builtin_extractor
from topk_plugin.evaluation.metrics import RESULT_KEYS, Evaluator

CPU = torch.device("cpu")
ALL = ("fid", "kid", "is", "prdc")


@pytest.fixture
def builtin(stripes):
    """An evaluator; all share one extractor, trained once for the whole suite."""

    def make(data, metrics=ALL, **arguments):
        arguments = {"seed": 0, "extractor_data": stripes(), **arguments}
        return Evaluator(data, metrics=metrics, extractor="builtin", device=CPU, **arguments)

    return make


def noisy(images, std, seed=1):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + std * noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def features_of(stripes):
    """float64 [N, 128] NumPy features of images, by the same extractor."""
    return lambda images: builtin_extractor(stripes(), device=CPU)(images)[0].double().numpy()


def test_frechet_distance_against_the_matrix_square_root(features_of, builtin, stripes):
    """Heusel et al., arXiv 1706.08500, eq. 6: |m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2))."""
    data, generated = stripes(n=300), noisy(stripes(n=280, seed=2).images, 30)
    value = builtin(data, ["fid"]).evaluate(generated)["frechet_distance"]
    a, b = features_of(generated), features_of(data.images)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # A tiny ridge: sqrtm needs full rank, dead features have none.
    ridge = 1e-10 * np.eye(len(ca))
    root = scipy.linalg.sqrtm((ca + ridge) @ (cb + ridge)).real
    oracle = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    assert value == pytest.approx(oracle, rel=1e-3)


def test_kernel_distance_against_a_loop(features_of, builtin, stripes):
    """Binkowski et al., arXiv 1801.01401: unbiased MMD^2 with the kernel (x.y / d + 1)^3."""
    data, generated = stripes(n=40), noisy(stripes(n=40, seed=2).images, 60)
    value = builtin(data, ["kid"]).evaluate(generated)["kernel_distance"]
    a, b = features_of(generated), features_of(data.images)

    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    rng = np.random.RandomState(0)
    estimates = []
    for _ in range(100):
        x, y = a[rng.choice(40, 20, replace=False)], b[rng.choice(40, 20, replace=False)]
        within = sum(
            kernel(s[i], s[j]) for s in (x, y) for i in range(20) for j in range(20) if i != j
        )
        across = sum(kernel(p, q) for p in x for q in y)
        estimates.append(within / (20 * 19) - 2 * across / 20**2)
    assert value == pytest.approx(np.mean(estimates), rel=1e-3)


def test_precision_and_recall_against_a_loop(features_of, builtin, stripes):
    """Kynkaanniemi et al., arXiv 1904.06991: inside the ball to the 3rd neighbour of any point."""
    data, generated = stripes(n=40), noisy(stripes(n=30, seed=2).images, 25)
    values = builtin(data, ["prdc"]).evaluate(generated)
    fake, real = features_of(generated), features_of(data.images)

    def covered(points, centres):
        radii = [np.sort(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        return np.mean(
            [
                any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True))
                for p in points
            ]
        )

    assert values["precision"] == pytest.approx(covered(fake, real), abs=0.05)
    assert values["recall"] == pytest.approx(covered(real, fake), abs=0.05)
    assert 0 < values["precision"] < 1 or 0 < values["recall"] < 1


def test_precision_and_recall_of_a_large_set_take_a_random_part_of_it(
    builtin, stripes, monkeypatch
):
    monkeypatch.setattr(metrics_module, "MANIFOLD_SAMPLES", 40)
    data = stripes(n=400)
    horizontal_first = torch.argsort(data.labels, stable=True)
    sorted_by_class = replace(
        data, images=data.images[horizontal_first], labels=data.labels[horizontal_first]
    )
    evaluator = builtin(sorted_by_class, ["prdc"])
    assert evaluator.describe()["precision_recall_samples_at_most"] == 40
    # The first 40 images are horizontal: vertical ones would be outside of their manifold.
    vertical = evaluator.evaluate(stripes(n=400, seed=5).images[1::2])
    assert vertical["precision"] > 0.3
    # Both sets are cut alike, so a set is still identical with itself.
    assert evaluator.evaluate(sorted_by_class.images) == {"precision": 1.0, "recall": 1.0}


def test_same_values_as_torch_fidelitys_own_entry(builtin, stripes, cache, tmp_path, monkeypatch):
    data, generated = stripes(n=60), noisy(stripes(n=50, seed=2).images, 20)
    ours = builtin(data).evaluate(generated)
    (weights,) = (cache / "extractors").iterdir()
    registry = torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    monkeypatch.setitem(registry, "ours", BuiltinExtractor)

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    theirs = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(data.images),
        feature_extractor="ours",
        feature_extractor_weights_path=str(weights),
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        kid_subset_size=25,
        rng_seed=0,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    pairs = {
        "frechet_distance": "frechet_inception_distance",
        "kernel_distance": "kernel_inception_distance_mean",
        "classifier_score": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }
    assert set(ours) == set(pairs)
    for key, their_key in pairs.items():
        assert ours[key] == pytest.approx(theirs[their_key], rel=1e-3, abs=1e-4), key


def test_identical_sets_are_at_distance_zero_and_noise_increases_it(builtin, stripes):
    data = stripes(n=120)
    evaluator = builtin(data)
    same = evaluator.evaluate(data.images)
    assert same["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert same["kernel_distance"] == pytest.approx(0, abs=0.05)
    assert same["precision"] == same["recall"] == 1
    little, much = (evaluator.evaluate(noisy(data.images, std)) for std in (20, 80))
    for key in ("frechet_distance", "kernel_distance"):
        assert same[key] < little[key] < much[key]
    assert much["precision"] < 0.5


def test_classifier_score_of_confident_balanced_and_of_collapsed_images(builtin, stripes):
    data = stripes(n=200)
    evaluator = builtin(data, ["is"])
    # exp of the mutual information: at most the number of classes, 1 for a single class
    assert evaluator.evaluate(data.images)["classifier_score"] == pytest.approx(2, abs=0.3)
    collapsed = data.images[data.labels == 0]
    assert evaluator.evaluate(collapsed)["classifier_score"] == pytest.approx(1, abs=0.05)


def test_a_data_set_gives_the_same_as_its_tensor(builtin, stripes):
    data = stripes(n=40)
    generated = stripes(n=30, seed=2).images
    evaluator = builtin(data, batch_size=7)
    from_tensor = evaluator.evaluate(generated)
    assert evaluator.evaluate(TensorDataset(generated)) == from_tensor
    assert builtin(data, batch_size=64).evaluate(generated) == pytest.approx(from_tensor, rel=1e-3)


def test_no_global_random_generator_moves(builtin, stripes, cache):
    def states():
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 - it must not move
        return torch.get_rng_state().tolist(), numpy_state, random.getstate()

    before = states()
    for _ in range(2):  # cold caches, then warm ones
        evaluator = builtin(stripes())
        evaluator.evaluate(stripes(seed=3).images)
    assert states() == before


def test_reference_features_are_computed_once_and_repaired(builtin, stripes, cache, monkeypatch):
    data = stripes()
    extracted = []
    extract = features_module.extract_features

    def counted(*arguments, what, **others):
        extracted.append(what)
        return extract(*arguments, what=what, **others)

    monkeypatch.setattr(features_module, "extract_features", counted)
    value = builtin(data).evaluate(data.images)
    assert builtin(data).evaluate(data.images) == value
    assert extracted == ["Stripes"]
    (path,) = (cache / "features").iterdir()
    for content in (b"damaged", None):
        if content is None:
            torch.save(torch.zeros(3, 128), path)
        else:
            path.write_bytes(content)
        with pytest.warns(UserWarning, match="computed again"):
            assert builtin(data).evaluate(data.images) == value
    assert extracted == ["Stripes"] * 3
    builtin(stripes(seed=7))
    assert len(list((cache / "features").iterdir())) == 2


def test_extractor_data_trains_the_extractor_when_the_reference_is_another_split(builtin, stripes):
    training, test = stripes(), stripes(n=50, seed=4, name="Test")
    on_training = builtin(training, extractor_data=None)
    on_test = builtin(test, extractor_data=training)
    assert on_test.describe()["weights_sha256"] == on_training.describe()["weights_sha256"]
    assert on_test.describe()["trained_on"] == "Stripes (96 images)"
    assert on_test.describe()["reference"] == "Test"


def test_describe_is_plain_data_and_names_what_was_used(builtin, stripes):
    described = builtin(stripes()).describe(samples=70)
    assert json.loads(json.dumps(described)) == described
    assert described["extractor"] == "builtin"
    assert described["reason"] == "the built-in extractor was asked for"
    assert described["feature_dims"] == 128
    assert described["reference"] == "Stripes"
    assert described["reference_size"] == 96
    assert described["held_out_accuracy"] > 0.9
    assert described["samples"] == 70
    assert described["kernel_subset_size"] == 35


def test_names_of_the_extractors_never_mix(builtin, stripes):
    """Only precision and recall have one name for both; result.json names the extractor."""
    names = {
        extractor: {key for keys in table.values() for key in keys}
        for extractor, table in RESULT_KEYS.items()
    }
    assert names["inception"] & names["builtin"] == {"precision", "recall"}
    evaluator = builtin(stripes(), ["fid", "fid", "is"])
    assert evaluator.keys == ("frechet_distance", "classifier_score")
    assert tuple(evaluator.evaluate(stripes().images)) == evaluator.keys


@pytest.mark.parametrize(("metric", "fewest"), [("fid", 2), ("kid", 4), ("is", 10), ("prdc", 4)])
def test_fewest_samples(builtin, stripes, metric, fewest):
    evaluator = builtin(stripes(), [metric])
    images = stripes(n=fewest).images
    assert all(np.isfinite(value) for value in evaluator.evaluate(images).values())
    with pytest.raises(UserError, match=rf"at least {fewest} images.*has {fewest - 1}"):
        evaluator.evaluate(images[:-1])
    with pytest.raises(UserError, match=rf"at least {fewest} images.*has 1"):
        builtin(stripes(n=1), [metric])


def test_wrong_arguments_are_refused(builtin, stripes):
    with pytest.raises(UserError, match="'psnr' is unknown"):
        builtin(stripes(), ["psnr"])
    with pytest.raises(ValueError, match="at least one metric"):
        builtin(stripes(), [])
    with pytest.raises(UserError, match="one class"):
        builtin(stripes(n=20), ["is"], extractor_data=stripes(n=20, classes=1))
    evaluator = builtin(stripes(), ["fid"])
    with pytest.raises(TypeError, match="float32"):
        evaluator.evaluate(stripes().images.float())
    with pytest.raises(ValueError, match=r"\[3, 16, 16\].*\[3, 8, 8\]"):
        evaluator.evaluate(stripes().images[:, :, :8, :8])
