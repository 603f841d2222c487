import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch, BatchStream

CPU = torch.device("cpu")


def numbered(count: int) -> ImageSet:
    """Image i has i in its left column and 255 - i in its right one; its label is i."""
    images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    images[..., 0] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    images[..., 1] = 255 - images[..., 0]
    names = tuple(str(i) for i in range(count))
    return ImageSet(images, torch.arange(count), names, "Numbers", "made by a test")


def stream(count: int = 20, batch: int = 3, batches: int = 2, **options: object) -> BatchStream:
    arguments = {"seed": 0, "flip": True, "device": CPU, **options}
    return BatchStream(numbered(count), batch_size=batch, batches_per_step=batches, **arguments)


def labels_of(step: list[Batch]) -> list[int]:
    return [label for _, labels, _ in step for label in labels.tolist()]


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(-(2**70), 2**70))
def test_an_epoch_gives_each_image_at_most_once_and_whole_baskets_only(
    count: int, batch: int, batches: int, seed: int
) -> None:
    if count < batch * batches:
        with pytest.raises(UserError, match=f"Numbers has {count} images"):
            stream(count, batch, batches, seed=seed)
        return
    data = stream(count, batch, batches, seed=seed)
    assert data.steps_per_epoch == count // (batch * batches)
    for epoch in range(2):
        assert data.epoch == epoch
        seen = []
        for _ in range(data.steps_per_epoch):
            step = data.next_step()
            assert [len(batch.labels) for batch in step] == [batch] * batches
            seen += labels_of(step)
        assert len(set(seen)) == len(seen) == data.steps_per_epoch * batch * batches


def test_images_are_normalised_flipped_and_keep_their_labels() -> None:
    data = stream(200, 50, 2)
    flipped = []
    for _ in range(4):
        for images, labels, _ in data.next_step():
            assert images.dtype == torch.float32
            assert images.shape == (50, 3, 2, 2)
            assert labels.dtype == torch.int64
            for image, label in zip(images, labels.tolist(), strict=True):
                row = torch.tensor([label, 255 - label]) / 255 * 2 - 1
                straight, mirrored = row.expand(3, 2, 2), row.flip(0).expand(3, 2, 2)
                is_flipped = torch.allclose(image, mirrored, atol=1e-6)
                assert is_flipped or torch.allclose(image, straight, atol=1e-6)
                flipped.append(is_flipped)
    # 400 fair coins: 6 standard deviations are 60.
    assert abs(sum(flipped) - 200) < 60


def test_values_reach_exactly_minus_one_and_one() -> None:
    images, _, _ = stream(1, 1, 1, flip=False).next_step()[0]
    assert images[0, :, :, 0].eq(-1).all()
    assert images[0, :, :, 1].eq(1).all()


def test_without_flip_images_are_straight() -> None:
    data = stream(120, 10, 3, flip=False)
    for images, labels, _ in data.next_step():
        assert torch.equal(images[:, 0, 0, 0], labels.to(torch.float32) / 127.5 - 1)


def test_flips_of_an_image_change_from_epoch_to_epoch() -> None:
    data = stream(1, 1, 1)
    seen = {data.next_step()[0][0][0, 0, 0, 0].item() for _ in range(40)}
    assert seen == {-1.0, 1.0}


def test_the_first_batch_alone_moves_the_stream_by_a_basket() -> None:
    whole, first = stream(), stream()
    for _ in range(7):
        (batch,) = first.next_step(first_only=True)
        assert same([batch], whole.next_step()[:1])
        assert first.state_dict() == whole.state_dict()


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5, 9, 31])
def test_a_restored_stream_goes_on_bit_for_bit(stop: int) -> None:
    original = stream()
    for _ in range(stop):
        original.next_step()
    state = original.state_dict()
    baskets = stop % original.steps_per_epoch
    basket_size = sum(len(b.labels) for b in original.next_step())
    original.load_state_dict(state)
    assert state == {
        "version": 1,
        "epoch": stop // original.steps_per_epoch,
        "images": baskets * basket_size,
    }
    restored = stream()
    restored.next_step()
    restored.load_state_dict(state)
    assert restored.epoch == original.epoch == stop // original.steps_per_epoch
    for _ in range(8):
        assert same(restored.next_step(), original.next_step())


@pytest.mark.parametrize(
    ("images_given", "batch", "epoch", "first_basket"),
    [(12, 3, 2, 4), (12, 4, 2, 3), (12, 5, 2, 2), (18, 10, 2, 1), (18, 9, 3, 0)],
)
def test_another_batch_size_keeps_epoch_and_place(
    images_given: int, batch: int, epoch: int, first_basket: int
) -> None:
    restored = stream(20, batch, 1)
    restored.load_state_dict({"version": 1, "epoch": 2, "images": images_given})
    assert restored.epoch == epoch
    expected = stream(20, batch, 1)
    for _ in range(epoch * expected.steps_per_epoch + first_basket):
        expected.next_step()
    assert same(restored.next_step(), expected.next_step())


def test_order_depends_on_seed_and_epoch_only() -> None:
    one_epoch = [[labels_of(stream(60, 30, 1, seed=seed).next_step())] for seed in range(4)]
    for seed, orders in enumerate(one_epoch):
        data = stream(60, 30, 1, seed=seed)
        for _ in range(8):
            orders.append(labels_of(data.next_step()))
        assert orders[0] == orders.pop(1)
    flat = [tuple(order) for orders in one_epoch for order in orders]
    assert len(set(flat)) == len(flat)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = stream().next_step()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, stream().next_step())


def test_too_small_a_set_names_the_numbers_and_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"5 images, but one step takes 6 \(2 batches of 3\); lower"
    ):
        stream(5)


@pytest.mark.parametrize(("batch", "batches"), [(0, 1), (1, 0), (-1, 2)])
def test_sizes_below_one_are_refused(batch: int, batches: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        stream(20, batch, batches)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"version": 2, "epoch": 1, "images": 0},
        {"version": 1, "epoch": 1},
        {"version": 1, "epoch": 0, "images": -1},
        {"version": 1, "epoch": "0", "images": 0},
        {"epoch": 3, "images": 0},
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(state: dict[str, int]) -> None:
    data, untouched = stream(), stream()
    with pytest.raises(UserError, match="data position"):
        data.load_state_dict(state)
    assert same(data.next_step(), untouched.next_step())


def test_a_batch_says_which_images_it_holds() -> None:
    for batch in stream().next_step():
        assert torch.equal(batch.indices, batch.labels)  # image i has label i


def test_the_order_of_an_epoch_can_be_chosen_and_goes_by_the_epochs_own_numbers() -> None:
    def weighted(generator: torch.Generator, count: int) -> torch.Tensor:
        weights = torch.arange(1.0, count + 1)
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    drawn = [labels_of(stream(order=weighted).next_step()) for _ in range(2)]
    assert drawn[0] == drawn[1]
    data = stream(20, 5, 2, order=weighted)
    sampled = [label for _ in range(200) for label in labels_of(data.next_step())]
    assert sum(label >= 10 for label in sampled) > 0.6 * len(sampled)  # 0.74 are expected
    plain, shuffled = stream(), stream(order=lambda generator, count: None)
    assert same(plain.next_step(), shuffled.next_step())


def test_an_order_can_be_asked_for_anew_in_the_middle_of_an_epoch() -> None:
    chosen = [torch.arange(20)]
    data = stream(20, 3, 2, order=lambda generator, count: chosen[0])
    assert labels_of(data.next_step()) == [0, 1, 2, 3, 4, 5]
    chosen[0] = torch.arange(20).flip(0)
    data.reorder()
    assert labels_of(data.next_step()) == [13, 12, 11, 10, 9, 8]
    resumed = stream(20, 3, 2, order=lambda generator, count: chosen[0])
    resumed.load_state_dict(data.state_dict())
    assert labels_of(resumed.next_step()) == labels_of(data.next_step())


def test_a_stream_beside_has_an_order_of_its_own() -> None:
    data = stream(20, 3, 2, order=lambda generator, count: torch.zeros(count, dtype=torch.int64))
    other = data.beside(5)
    seen = labels_of([batch for _ in range(6) for batch in other.next_step()])
    assert len(set(seen)) == 18
    assert labels_of(data.next_step()) == [0] * 6
    assert len(data.beside(5, images=numbered(2)).next_step()[0].labels) == 2
    data.release()
