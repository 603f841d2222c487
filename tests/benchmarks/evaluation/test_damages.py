"""Damages do what they are called, each level more than the one before."""

import pytest
import torch

from benchmarks.evaluation.damages import DAMAGES, Pool

NAMES = {damage.name.split()[-1]: damage for damage in DAMAGES}


@pytest.fixture
def pool() -> Pool:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Pool(images, torch.arange(400) % 10, torch.zeros(7, 3, 16, 16, dtype=torch.uint8))


def apply(damage, pool, level, n=100):
    before = pool.images.clone()
    images = damage.apply(pool, n, level, torch.Generator().manual_seed(1))
    assert torch.equal(pool.images, before)
    assert images.shape == (n, 3, 16, 16)
    assert images.dtype == torch.uint8
    return images


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_every_level_is_another_set_and_the_same_twice(pool, damage):
    sets = [apply(damage, pool, level) for level in damage.levels]
    for index, images in enumerate(sets):
        assert torch.equal(apply(damage, pool, damage.levels[index]), images)
        assert not any(torch.equal(images, other) for other in sets[:index])
        assert not torch.equal(images, pool.images[:100])


@pytest.mark.parametrize("kind", ["px", "255", "second", "kind"])
def test_pixels_move_further_with_the_level(pool, kind):
    damage = NAMES[kind]
    moved = [
        (apply(damage, pool, level).float() - pool.images[:100].float()).abs().mean()
        for level in damage.levels
    ]
    assert moved == sorted(moved)
    assert moved[0] > 0


def test_tiles_are_the_images_own(pool):
    for tiles in (2, 4, 3):  # 3 tiles of 5 pixels leave a border, which stays
        images = apply(NAMES["shuffled"], pool, tiles)
        assert not torch.equal(images, pool.images[:100])
        for shuffled, whole in zip(images[:5], pool.images, strict=False):
            edge = 16 // tiles
            cut = edge * tiles
            pieces = [
                {
                    tuple(part[:, y : y + edge, x : x + edge].flatten().tolist())
                    for y in range(0, cut, edge)
                    for x in range(0, cut, edge)
                }
                for part in (shuffled, whole)
            ]
            assert pieces[0] == pieces[1]
            assert torch.equal(shuffled[:, cut:], whole[:, cut:])


def test_classes_and_images_that_are_left(pool):
    rows = {tuple(image.flatten().tolist()): i for i, image in enumerate(pool.images)}
    dropped = apply(NAMES["dropped"], pool, 5)
    assert {rows[tuple(i.flatten().tolist())] % 10 for i in dropped} == {5, 6, 7, 8, 9}
    assert len(apply(NAMES["times"], pool, 25).unique(dim=0)) == 4
    replaced = apply(NAMES["kind"], pool, 0.1)
    assert int((replaced.flatten(1) == 0).all(dim=1).sum()) == 10


def test_what_is_not_possible_is_left_out(pool):
    bare = Pool(pool.images, torch.zeros(400, dtype=torch.int64), None)
    assert [damage for damage in DAMAGES if not damage.possible(bare)] == [
        NAMES["dropped"],
        NAMES["kind"],
    ]
    assert all(damage.possible(pool) for damage in DAMAGES)
