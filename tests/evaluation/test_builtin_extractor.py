"""The built-in extractor: training, cache, fingerprint."""

from dataclasses import replace

import pytest
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.evaluation import builtin_extractor as module
from topk_plugin.evaluation.builtin_extractor import (
    builtin_extractor,
    recipe_fingerprint,
    weights_digest,
)
from topk_plugin.evaluation.builtin_network import SmallClassifier
from topk_plugin.evaluation.builtin_training import Recipe, rotated, train_classifier

CPU = torch.device("cpu")
QUICK = Recipe(passes=1, most_passes=2)


@pytest.fixture
def trainings(monkeypatch):
    """Counts the trainings."""
    calls = []

    def counted(data, **arguments):
        calls.append(data.name)
        return train_classifier(data, **arguments)

    monkeypatch.setattr(module, "train_classifier", counted)
    return calls


def test_learns_the_classes_and_the_logits_say_so(stripes):
    data, unseen = stripes(), stripes(seed=1)
    extractor = builtin_extractor(data, device=CPU)
    features, logits = extractor(unseen.images)
    assert (logits.argmax(dim=1) == unseen.labels).float().mean() > 0.95
    assert extractor.facts["task"] == "classes"
    assert extractor.facts["held_out_accuracy"] > 0.9
    assert features.shape == (96, 128)
    assert features.dtype == torch.float32
    # An image's features don't depend on the batch it comes in.
    alone, _ = extractor(unseen.images[5:6])
    torch.testing.assert_close(alone[0], features[5], rtol=1e-4, atol=1e-4)


def test_one_class_learns_rotations(stripes):
    bright_on_top = torch.linspace(255, 0, 16)[:, None].expand(60, 3, 16, 16)
    noise = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (bright_on_top + 20 * noise).clamp(0, 255).to(torch.uint8).contiguous()
    data = ImageSet(images, torch.zeros(60, dtype=torch.int64), ("all",), "Slopes", "test")
    extractor = builtin_extractor(data, device=CPU)
    assert extractor.facts["task"] == "rotations"
    assert extractor.facts["held_out_accuracy"] > 0.9
    for turns in range(4):
        _, logits = extractor(torch.rot90(images, turns, dims=(2, 3)))
        assert (logits.argmax(dim=1) == turns).float().mean() > 0.9


def test_rotated_turns_each_image_by_its_own_angle():
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    turns = torch.tensor([0, 1, 2, 3, 3, 0])
    turned, labels = rotated(images, turns)
    assert torch.equal(labels, turns)
    for image, k, result in zip(images, turns.tolist(), turned, strict=True):
        assert torch.equal(result, torch.rot90(image, k, dims=(1, 2)))


def test_same_data_gives_the_same_weights_and_global_random_state_is_untouched(stripes):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train_classifier(stripes(), device=CPU, recipe=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = train_classifier(stripes(), device=CPU, recipe=QUICK)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_cache_hit_does_not_train_again(stripes, trainings, cache):
    first = builtin_extractor(stripes(), device=CPU, recipe=QUICK)
    second = builtin_extractor(stripes(name="same images, other name"), device=CPU, recipe=QUICK)
    assert trainings == ["Stripes"]
    assert weights_digest(first) == weights_digest(second)
    assert first.facts == second.facts
    fingerprint = recipe_fingerprint(stripes(), QUICK)
    assert [file.name for file in (cache / "extractors").iterdir()] == [f"{fingerprint}.pt"]
    saved = torch.load(cache / "extractors" / f"{fingerprint}.pt", weights_only=True)
    assert saved["facts"]["held_out_accuracy"] == first.facts["held_out_accuracy"]


@pytest.mark.parametrize("damage", ["empty", "cut", "other content"])
def test_damaged_cache_is_rebuilt(stripes, trainings, cache, damage):
    first = builtin_extractor(stripes(), device=CPU, recipe=QUICK)
    (path,) = (cache / "extractors").iterdir()
    if damage == "other content":
        torch.save({"something": torch.zeros(3)}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="trained again"):
        second = builtin_extractor(stripes(), device=CPU, recipe=QUICK)
    assert len(trainings) == 2
    assert weights_digest(first) == weights_digest(second)
    builtin_extractor(stripes(), device=CPU, recipe=QUICK)
    assert len(trainings) == 2


def test_fingerprint_depends_on_data_and_on_every_field_of_the_recipe(stripes):
    recipe = Recipe()
    seen = {recipe_fingerprint(stripes(), recipe), recipe_fingerprint(stripes(seed=1), recipe)}
    for field, value in vars(recipe).items():
        seen.add(recipe_fingerprint(stripes(), replace(recipe, **{field: value + 1})))
    assert len(seen) == 2 + len(vars(recipe))


def test_too_few_images_are_refused(stripes, cache):
    with pytest.raises(UserError, match=r"9 images.*at least 10"):
        builtin_extractor(stripes(n=9), device=CPU, recipe=QUICK)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("n_images", "images_seen"), [(100, 4000), (1000, 10_000), (2000, 12_000), (10**6, 150_000)]
)
def test_how_much_is_seen(n_images, images_seen):
    recipe = Recipe()
    batch = min(recipe.batch_size, n_images)
    assert 0 <= images_seen - recipe.steps(n_images) * batch < batch


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 100])
def test_every_image_size_works_and_every_pixel_counts(size):
    torch.manual_seed(0)
    network = SmallClassifier(size, 5).eval()
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    features, logits = network(image)
    assert features.shape == (1, 128)
    assert logits.shape == (1, 5)
    for row, column in [(0, 0), (size // 2, size // 3), (size - 1, size - 1)]:
        changed = image.clone()
        changed[0, :, row, column] = 255 - changed[0, :, row, column]
        assert not torch.equal(network(changed)[0], features)
