"""The values against oracles, their names, counts and reuse."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation import features as features_module
from topk_plugin.evaluation.builtin_extractor import BuiltinExtractor, builtin_extractor
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.extractor_names import NETWORKS
from topk_plugin.evaluation.metrics import (
    METRICS,
    frechet_infinity,
    higher_is_better,
    manifold,
    metric_keys,
)
from topk_plugin.evaluation.metrics.frechet import Normal, frechet_distance
from topk_plugin.evaluation.metrics.record import Generated, Reference

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


def slow_manifold(fake, real):
    """Every definition as a loop over pairs, in float64."""

    def distances(a, b):
        return np.array([[np.linalg.norm(x - y) for y in b] for x in a])

    def radius(points, k):
        return np.sort(distances(points, points), axis=1)[:, k]  # the 0th is the point itself

    across = distances(real, fake)
    return (
        (across <= radius(real, 3)[:, None]).any(0).mean(),
        (across <= radius(fake, 3)).any(1).mean(),
        (across < radius(real, 5)[:, None]).sum(0).mean() / 5,
        (across.min(1) < radius(real, 5)).mean(),
    )


@settings(max_examples=25, deadline=None)
@given(
    fakes=st.integers(6, 30),
    reals=st.integers(6, 30),
    dims=st.integers(1, 4),
    shift=st.floats(0, 3),
    seed=st.integers(0, 2**31),
)
def test_precision_recall_density_coverage_against_loops(fakes, reals, dims, shift, seed):
    rng = np.random.default_rng(seed)
    fake, real = rng.normal(size=(fakes, dims)) + shift, rng.normal(size=(reals, dims))
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    found = manifold.precision_recall_density_coverage(*tensors)
    assert found == pytest.approx(slow_manifold(fake, real), abs=1e-12)


def test_density_and_coverage_of_the_package_prdc():
    """prdc 0.2, compute_prdc(real, fake, nearest_k=5) of these very points."""
    grid = np.arange(24.0)
    real = np.stack([np.sin(grid), np.cos(1.7 * grid)], axis=1)
    fake = np.stack([0.5 * np.sin(grid + 0.4) + 0.6, np.cos(1.3 * grid)], axis=1)
    _, _, density, coverage = manifold.precision_recall_density_coverage(
        torch.from_numpy(fake), torch.from_numpy(real)
    )
    assert density == pytest.approx(1.0250000000000001)
    assert coverage == pytest.approx(0.7083333333333334)


def test_blocks_of_rows_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.randn(n, 6, generator=generator) for n in (53, 47))
    whole = manifold.precision_recall_density_coverage(fake, real)
    monkeypatch.setattr(manifold, "ROWS", 10)
    assert manifold.precision_recall_density_coverage(fake, real) == pytest.approx(whole)


def test_repeated_images_cover_little_though_they_are_precise():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 8, generator=generator)
    repeated = real[:8].repeat(50, 1)
    precision, _, _, coverage = manifold.precision_recall_density_coverage(repeated, real)
    assert precision == 1.0
    assert coverage < 0.2


def test_precision_and_recall_of_a_large_set_take_a_random_part_of_it(
    builtin, stripes, monkeypatch
):
    monkeypatch.setattr(manifold, "MOST_SAMPLES", 40)
    data = stripes(n=400)
    horizontal_first = torch.argsort(data.labels, stable=True)
    sorted_by_class = replace(
        data, images=data.images[horizontal_first], labels=data.labels[horizontal_first]
    )
    evaluator = builtin(sorted_by_class, ["prdc"])
    assert evaluator.describe()["prdc_samples_at_most"] == 40
    # The first 40 images are horizontal: vertical ones would be outside of their manifold.
    vertical = evaluator.evaluate(stripes(n=400, seed=5).images[1::2])
    assert vertical["precision"] > 0.3
    # Both sets are cut alike, so a set is still identical with itself.
    assert set(evaluator.evaluate(sorted_by_class.images).values()) == {1.0}


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
    assert set(ours) == {*pairs, "density", "coverage"}
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
    assert described["reason"] == "asked for"
    assert described["feature_dims"] == 128
    assert described["reference"] == "Stripes"
    assert described["reference_size"] == 96
    assert described["held_out_accuracy"] > 0.9
    assert described["samples"] == 70
    assert described["kernel_subset_size"] == 35


def test_the_frechet_distance_of_normal_distributions():
    """Equal covariances: the squared distance of the means."""
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    shifted = features + torch.tensor([3.0, 0.0, -4.0])
    assert frechet_distance(shifted, features) == pytest.approx(25.0, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    fakes=st.integers(2, 40),
    reals=st.integers(2, 40),
    dims=st.integers(2, 12),
    scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)
def test_frechet_distance_is_torch_fidelitys(fakes, reals, dims, scale, seed):
    """Also where there are fewer images than dimensions, so that covariances have no full rank."""
    generator = torch.Generator().manual_seed(seed)
    fake = torch.randn(fakes, dims, generator=generator, dtype=torch.float64) * scale
    real = torch.randn(reals, dims, generator=generator, dtype=torch.float64)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(features) for features in (fake, real)), verbose=False
    )
    (expected,) = theirs.values()
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_extrapolation_finds_the_distance_of_infinitely_many():
    """The bias of N images of a known distribution is gone, for two sizes of a set alike."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200_000, 16, generator=generator)
    shift = torch.zeros(16)
    shift[0] = 1.0  # the true distance is 1
    few, many = (torch.randn(n, 16, generator=generator) + shift for n in (500, 4000))
    biased = [frechet_distance(fakes, real) - 1 for fakes in (few, many)]
    reference = Normal.of(real)
    found = [frechet_infinity.extrapolated(fakes, reference, 0) - 1 for fakes in (few, many)]
    assert biased[0] > 0.05
    assert abs(found[0]) < 0.5 * biased[0]
    assert abs(found[1]) < 0.05
    assert frechet_infinity.part_sizes(5000)[::9] == [1000, 5000]
    assert frechet_infinity.part_sizes(5000) == sorted(frechet_infinity.part_sizes(5000))


def test_names_of_the_extractors_never_mix(builtin, stripes):
    """What has one name for all features is no distance; result.json names the extractor."""
    names = [
        {key.name(extractor) for metric in METRICS.values() for key in metric.keys}
        for extractor in NETWORKS
    ]
    shared = {"precision", "recall", "density", "coverage"}
    for one in range(len(names)):
        for other in range(one):
            assert names[one] & names[other] == shared
    assert set(metric_keys()) == set.union(*names)
    assert metric_keys()["frechet_distance_imagenet"][1] == "Frechet distance (EfficientNet-Lite0)"
    assert not any("fid" in name for name in names[1] | names[2])
    evaluator = builtin(stripes(), ["fid", "fid", "is"])
    assert evaluator.keys == ("frechet_distance", "classifier_score")
    assert tuple(evaluator.evaluate(stripes().images)) == evaluator.keys


def test_directions():
    better = {name for name in metric_keys() if higher_is_better(name)}
    scores = {"inception_score", "classifier_score", "classifier_score_imagenet"}
    assert better == {"precision", "recall", "density", "coverage"} | scores


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_keeps_what_its_record_says(metric):
    """Its number of values at its fewest images, the same for the same seed, as plain data."""
    generator = torch.Generator().manual_seed(1)
    features, real = (torch.randn(metric.fewest, 4, generator=generator) for _ in range(2))
    generated = Generated(features, features)
    values = metric.values(generated, Reference(real), 3)
    assert len(values) == len(metric.keys)
    assert all(isinstance(value, float) for value in values)
    assert metric.values(generated, Reference(real), 3) == values
    for samples in (None, metric.fewest):
        conventions = metric.conventions(samples, metric.fewest)
        assert json.loads(json.dumps(conventions)) == conventions


@pytest.mark.parametrize("damage", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(builtin, stripes, shared_cache, damage):
    data = stripes(n=40, seed=11)
    before = set((shared_cache / "features").glob("*.pt"))
    evaluator = builtin(data)
    layers = evaluator.layers(stripes(n=30, seed=2).images)
    for name, layer in layers.items():
        broken = layer.clone()
        broken[[3, 7], 5 % layer.shape[1]] = damage
        with pytest.raises(UserError, match=r"2 of 30 images .* not finite.*--extractor"):
            evaluator.values({**layers, name: broken})
    # the extractor itself is broken
    with torch.no_grad():
        evaluator._extractor.module.network.head.weight[0, 0] = damage
    with pytest.raises(UserError, match="30 of 30 images"):
        evaluator.evaluate(stripes(n=30, seed=2).images)
    # and so were the features in the cache
    (path,) = set((shared_cache / "features").glob("*.pt")) - before
    torch.save(torch.full((40, 128), damage), path)
    with pytest.warns(UserWarning, match="computed again"):
        assert builtin(data).reference.features.isfinite().all()
    path.unlink()


def test_a_value_that_is_not_finite_is_refused(builtin, stripes):
    evaluator = builtin(stripes(), ["is"])
    layers = evaluator.layers(stripes(n=20).images)
    certain = torch.tensor([[0.0, 2000.0]]).expand(20, 2)  # a class of probability 0 in float64
    with pytest.raises(UserError, match=r'metric "is" .* is nan'):
        evaluator.values({"penultimate": layers["penultimate"], "logits": certain})


@pytest.mark.parametrize(
    ("metric", "fewest"), [("fid", 2), ("kid", 4), ("is", 10), ("prdc", 6), ("fid_inf", 50)]
)
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


def test_the_score_of_four_images_by_hand() -> None:
    """In one part; and in ten parts of one image each, whose mean is the image itself."""
    rows = [(0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6), (0.3, 0.3, 0.4)]
    logits = torch.tensor(rows).log()
    found = isc_features_to_metric(logits, splits=1, rng_seed=0)
    assert found["inception_score_mean"] == pytest.approx(1.251415, abs=1e-6)
    generated = Generated(torch.empty(0), logits.repeat(3, 1)[:10])
    (ten,) = METRICS["is"].values(generated, Reference(torch.empty(0)), 0)
    assert ten == pytest.approx(1.0)
