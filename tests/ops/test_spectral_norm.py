"""Spectral normalisation of many layers at once against torch's hook on each."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

from topk_plugin.engine.networks.sampling import detached_copy, sampling_copy
from topk_plugin.ops.spectral_norm import (
    BatchedSpectralNorm,
    spectral_weights,
    spectral_weights_reference,
)

EPS = 1e-6
STACKED = pytest.mark.parametrize("stacked", [False, True])
UPDATE = pytest.mark.parametrize("update", [False, True])

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]

# Pairs of alike layers, layers on their own, a 1x1 filter, one row, one column.
SHAPES = [(4, 6), (5, 3, 3, 3), (4, 6), (5, 3, 3, 3), (7, 3, 1, 1), (1, 8), (6, 1), (4, 6)]


def _lists(
    shapes: list[tuple[int, ...]] = SHAPES,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Lists:
    random = torch.Generator().manual_seed(len(shapes))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=random)

    weights = [draw(*shape) for shape in shapes]
    if channels_last:
        weights = [
            w.contiguous(memory_format=torch.channels_last) if w.dim() == 4 else w for w in weights
        ]
    us = [nn.functional.normalize(draw(w.shape[0]), dim=0) for w in weights]
    vs = [nn.functional.normalize(draw(w[0].numel()), dim=0) for w in weights]
    return [w.requires_grad_() for w in weights], us, vs


def _copy(lists: Lists) -> Lists:
    weights, us, vs = lists
    return (
        [w.detach().clone().requires_grad_() for w in weights],
        [u.clone() for u in us],
        [v.clone() for v in vs],
    )


def _assert_all_close(got, wanted, tolerance: float) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def _assert_same(lists: Lists, *, update: bool, stacked: bool, tolerance: float = 1e-13) -> None:
    twin = _copy(lists)
    result = spectral_weights(*lists, update=update, eps=EPS, stacked=stacked)
    expected = spectral_weights_reference(*twin, update=update, eps=EPS)
    _assert_all_close(result, expected, tolerance)
    _assert_all_close(lists[1] + lists[2], twin[1] + twin[2], tolerance)
    incoming = [torch.randn_like(w) for w in expected]
    got = torch.autograd.grad(result, lists[0], incoming)
    wanted = torch.autograd.grad(expected, twin[0], incoming)
    # relative to the gradient's size: both parts of it can be large and cancel
    for a, b in zip(got, wanted, strict=True):
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=10 * tolerance * scale)


# --- the function --------------------------------------------------------------------------


@STACKED
@UPDATE
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_vectors_and_gradients_are_those_of_the_reference(
    stacked: bool, update: bool, channels_last: bool
) -> None:
    _assert_same(_lists(channels_last=channels_last), update=update, stacked=stacked)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 4), st.integers(1, 4)),
            st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
            st.tuples(st.integers(1, 3)),
        ),
        min_size=1,
        max_size=6,
    ),
    update=st.booleans(),
    stacked=st.booleans(),
    channels_last=st.booleans(),
)
def test_any_shapes(shapes, update: bool, stacked: bool, channels_last: bool) -> None:
    lists = _lists(shapes, channels_last)
    # without an iteration u' W v of unrelated vectors may be anything, also close to 0
    spectral_weights_reference(*lists, update=True, eps=EPS)
    _assert_same(lists, update=update, stacked=stacked)


def test_the_reference_is_torchs_hook() -> None:
    layer = spectral_norm(nn.Conv2d(3, 5, 3).double(), eps=EPS)
    lists = ([layer.weight_orig], [layer.weight_u.clone()], [layer.weight_v.clone()])
    (weight,) = spectral_weights_reference(*lists, update=True, eps=EPS)
    layer(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    assert torch.equal(weight, layer.weight)
    assert torch.equal(lists[1][0], layer.weight_u)
    assert torch.equal(lists[2][0], layer.weight_v)


@STACKED
def test_weights_of_zeros_keep_finite_vectors(stacked: bool) -> None:
    lists = _lists([(3, 4), (3, 4)])
    with torch.no_grad():
        lists[0][0].zero_()
    twin = _copy(lists)
    result = spectral_weights(*lists, update=True, eps=EPS, stacked=stacked)
    expected = spectral_weights_reference(*twin, update=True, eps=EPS)
    torch.testing.assert_close(result, expected, equal_nan=True)
    _assert_all_close(lists[1] + lists[2], twin[1] + twin[2], 1e-13)


@STACKED
def test_single_precision(stacked: bool) -> None:
    shapes = [(48, 32, 3, 3)] * 2 + [(64, 200)]
    lists = _lists(shapes, True, torch.float32)
    _assert_same(lists, update=True, stacked=stacked, tolerance=1e-6)


@STACKED
def test_autocast_does_not_lower_the_precision(stacked: bool) -> None:
    lists = _lists(dtype=torch.float32)
    twin = _copy(lists)
    with torch.autocast("cpu", torch.bfloat16):
        result = spectral_weights(*lists, update=True, eps=EPS, stacked=stacked)
        gradients = torch.autograd.grad(result, lists[0], [torch.ones_like(w) for w in result])
    expected = spectral_weights(*twin, update=True, eps=EPS, stacked=stacked)
    wanted = torch.autograd.grad(expected, twin[0], [torch.ones_like(w) for w in expected])
    assert all(map(torch.equal, result, expected))
    assert all(map(torch.equal, gradients, wanted))


@STACKED
@UPDATE
def test_first_and_second_derivatives_by_finite_differences(stacked: bool, update: bool) -> None:
    weights, us, vs = _lists([(2, 3), (2, 3), (2, 1, 2, 2)], True)
    spectral_weights_reference(weights, us, vs, update=True, eps=EPS)

    def frozen(*weights: Tensor) -> tuple[Tensor, ...]:
        # u and v are constants to the gradient
        return tuple(spectral_weights(weights, us, vs, update=False, eps=EPS, stacked=stacked))

    if not update:
        assert torch.autograd.gradcheck(frozen, weights)
        assert torch.autograd.gradgradcheck(frozen, weights)
        return

    def second(function: Callable[..., list[Tensor]], lists: Lists, **options) -> list[Tensor]:
        result = function(*lists, update=True, eps=EPS, **options)
        first = torch.autograd.grad(
            sum(w.pow(3).sum() for w in result), lists[0], create_graph=True
        )
        return list(torch.autograd.grad(sum(g.pow(2).sum() for g in first), lists[0]))

    twin = _copy((weights, us, vs))
    got = second(spectral_weights, (weights, us, vs), stacked=stacked)
    wanted = second(spectral_weights_reference, twin)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()))


@STACKED
def test_frozen_weights_and_unused_results(stacked: bool) -> None:
    lists = _lists()
    lists[0][0].requires_grad_(False)
    twin = _copy(lists)
    result = spectral_weights(*lists, update=True, eps=EPS, stacked=stacked)
    expected = spectral_weights_reference(*twin, update=True, eps=EPS)
    used = [1, 2, 4]
    for weights in (result, expected):
        sum(weights[i].pow(2).sum() for i in used).backward()
    assert lists[0][0].grad is None
    for i in used:
        torch.testing.assert_close(lists[0][i].grad, twin[0][i].grad, rtol=1e-12, atol=1e-12)


@STACKED
def test_the_memory_format_is_kept(stacked: bool) -> None:
    lists = _lists(channels_last=True)
    for weight, result in zip(
        lists[0], spectral_weights(*lists, update=True, eps=EPS, stacked=stacked), strict=True
    ):
        assert result.shape == weight.shape
        if weight.dim() == 4:
            assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_references_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = _lists()
    twin = _copy(lists)
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    result = spectral_weights(*lists, update=True, eps=EPS)
    expected = spectral_weights_reference(*twin, update=True, eps=EPS)
    assert all(map(torch.equal, result, expected))


@STACKED
@UPDATE
def test_opcheck(stacked: bool, update: bool) -> None:
    options = {"update": update, "eps": EPS, "stacked": stacked}
    op = torch.ops.topk_plugin.spectral_weights.default
    torch.library.opcheck(op, _lists([(3, 4), (3, 4), (2, 2, 3, 3)], True), options)


@STACKED
@UPDATE
def test_compiles_as_one_graph(stacked: bool, update: bool) -> None:
    lists = _lists(channels_last=True)
    twin = _copy(lists)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(weights: list[Tensor], us: list[Tensor], vs: list[Tensor]) -> list[Tensor]:
        return spectral_weights(weights, us, vs, update=update, eps=EPS, stacked=stacked)

    result = step(*lists)
    expected = spectral_weights_reference(*twin, update=update, eps=EPS)
    _assert_all_close(result, expected, 1e-12)
    _assert_all_close(lists[1] + lists[2], twin[1] + twin[2], 1e-13)
    got = torch.autograd.grad(sum(w.sum() for w in result), lists[0])
    wanted = torch.autograd.grad(sum(w.sum() for w in expected), twin[0])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()))


def test_wrong_arguments_are_named() -> None:
    weights, us, vs = _lists([(2, 3)])
    with pytest.raises(ValueError, match="1 weights, 1 us and 0 vs"):
        spectral_weights(weights, us, [], update=True, eps=EPS)
    with pytest.raises(ValueError, match="eps is 0"):
        spectral_weights(weights, us, vs, update=True, eps=0.0)
    with pytest.raises(ValueError, match=r"v of shape \[2\] do not fit weight 0 of shape \[2, 3\]"):
        spectral_weights(weights, us, us, update=True, eps=EPS)
    assert spectral_weights([], [], [], update=True, eps=EPS) == []


# --- the network -----------------------------------------------------------------------------


class _Network(nn.Module):
    """A convolution called twice, two alike, a table, linear layers; one of them on request."""

    def __init__(self) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(3, 4, 3, padding=1), eps=EPS)
        self.blocks = nn.ModuleList(
            [spectral_norm(nn.Conv2d(4, 4, 3, padding=1, bias=False), eps=EPS) for _ in range(2)]
        )
        self.plain = nn.Conv2d(4, 4, 1)
        self.linear = spectral_norm(nn.Linear(4, 5))  # torch's own eps, 1e-12
        self.table = spectral_norm(nn.Embedding(6, 5), eps=EPS)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.first(x).relu()
        for block in self.blocks:
            h = block(h).relu()
        h = self.plain(self.blocks[0](h)).sum((2, 3))
        return (self.linear(h) * self.table(labels)).sum(1)


@pytest.fixture
def networks() -> tuple[_Network, _Network, BatchedSpectralNorm]:
    """Two alike in float64: with torch's hooks, and batched."""
    torch.manual_seed(0)
    plain = _Network().double()
    batched = copy.deepcopy(plain)
    return plain, batched, BatchedSpectralNorm(batched)


def _batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=random)
    return images, torch.arange(6) % 6


def _assert_alike(plain: nn.Module, batched: nn.Module) -> None:
    """Same state, in names, order and values, and same gradients."""
    state, other = plain.state_dict(), batched.state_dict()
    assert list(state) == list(other)
    assert state._metadata == other._metadata
    _assert_all_close(other.values(), state.values(), 1e-13)
    for a, b in zip(batched.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            scale = float(b.grad.abs().max())
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12 * scale)


def test_training_and_evaluation_go_as_with_torchs_hooks(networks) -> None:
    plain, batched, _ = networks
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in (plain, batched)]
    for training in (True, True, False, True):
        for network, optimizer in zip((plain, batched), optimizers, strict=True):
            network.train(training)
            optimizer.zero_grad()
            # two passes in a step: two power iterations, and a backward pass through both
            images, labels = _batch()
            (network(images, labels) - network(2 * images, labels).tanh()).sum().backward()
        _assert_alike(plain, batched)
        for optimizer in optimizers:
            optimizer.step()


def test_gradients_of_the_input_and_a_penalty_on_them(networks) -> None:
    for network in networks[:2]:
        images, labels = _batch()
        images.requires_grad_()
        (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
        gradient.pow(2).sum().backward()
    _assert_alike(*networks[:2])


def test_each_layer_follows_its_own_mode(networks) -> None:
    for network in networks[:2]:
        network.train()
        network.blocks[1].eval()
        network(*_batch()).sum().backward()
    _assert_alike(*networks[:2])


def test_a_layer_called_by_itself_works_as_torchs_does(networks) -> None:
    plain, batched, _ = networks
    images, labels = _batch()
    batched(images, labels), plain(images, labels)
    torch.testing.assert_close(batched.first(images), plain.first(images), rtol=1e-12, atol=1e-12)
    _assert_alike(plain, batched)


def test_a_pass_that_fails_leaves_nothing_behind(networks) -> None:
    plain, batched, _ = networks
    images, labels = _batch()
    with pytest.raises(IndexError):
        batched(images, labels + 6)
    plain.load_state_dict(batched.state_dict())
    for network in (plain, batched):
        network.table(labels)
    _assert_alike(plain, batched)


def test_state_dict_is_interchangeable(networks) -> None:
    plain, batched, _ = networks
    plain(*_batch())
    file = io.BytesIO()
    torch.save(plain.state_dict(), file)
    file.seek(0)
    batched.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(batched(*_batch()), plain(*_batch()), rtol=1e-12, atol=1e-12)
    plain.load_state_dict(batched.state_dict())


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_batched_and_their_own(networks, duplicate, monkeypatch) -> None:
    plain, batched, handle = networks
    twin = duplicate(batched)
    before = {name: value.clone() for name, value in batched.state_dict().items()}
    calls = []
    iterate = SpectralNorm.compute_weight
    monkeypatch.setattr(
        SpectralNorm,
        "compute_weight",
        lambda *args, **options: calls.append(1) or iterate(*args, **options),
    )
    twin(*_batch())
    assert len(calls) == 1  # the layer that is called twice
    monkeypatch.undo()
    plain(*_batch())
    _assert_alike(plain, twin)
    assert all(torch.equal(before[name], v) for name, v in batched.state_dict().items())
    handle.remove()
    twin(*_batch())


def test_the_engines_copies_of_a_trained_network_work(networks) -> None:
    plain, batched, _ = networks
    for network in (plain, batched):
        network(*_batch()).sum().backward()
    _assert_alike(detached_copy(plain), detached_copy(batched))
    expected, result = (sampling_copy(network)(*_batch()) for network in (plain, batched))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_remove_restores_torchs_hooks_exactly(networks) -> None:
    plain, _, _ = networks
    hooks = {name: dict(layer._forward_pre_hooks) for name, layer in plain.named_modules()}
    attributes = {name: set(layer.__dict__) for name, layer in plain.named_modules()}
    handle = BatchedSpectralNorm(plain)
    assert {name: dict(m._forward_pre_hooks) for name, m in plain.named_modules()} != hooks
    plain(*_batch())
    for _ in range(2):
        handle.remove()
        after = {name: dict(layer._forward_pre_hooks) for name, layer in plain.named_modules()}
        assert after == hooks
        assert [list(h) for h in after.values()] == [list(h) for h in hooks.values()]
        assert {name: set(layer.__dict__) for name, layer in plain.named_modules()} == attributes
        assert not plain._forward_hooks
        assert not plain._forward_hooks_always_called
    remove_spectral_norm(plain.first)
    BatchedSpectralNorm(plain)
    plain(*_batch())


def test_a_second_installation_is_refused(networks) -> None:
    _, batched, handle = networks
    with pytest.raises(RuntimeError, match="layer 'first' has a BatchedSpectralNorm already"):
        BatchedSpectralNorm(batched)
    handle.remove()
    BatchedSpectralNorm(batched)


def test_shapes_can_be_worked_out_on_the_meta_device(networks) -> None:
    batched = networks[1].to("meta")
    images, labels = _batch()
    assert batched(images.to("meta"), labels.to("meta")).shape == (6,)


def test_what_can_not_be_batched_keeps_its_hook() -> None:
    with pytest.raises(ValueError, match="no layer of this Linear has"):
        BatchedSpectralNorm(nn.Linear(2, 3))
    network = nn.Sequential(
        spectral_norm(nn.ConvTranspose2d(3, 4, 3)),
        spectral_norm(nn.Conv2d(4, 5, 3), n_power_iterations=3),
        spectral_norm(nn.Conv2d(5, 2, 1)),
    ).double()
    plain = copy.deepcopy(network)
    BatchedSpectralNorm(network)
    assert [type(m._forward_pre_hooks.popitem()[1]) is SpectralNorm for m in plain] == [True] * 3
    kept = [type(next(iter(m._forward_pre_hooks.values()))) is SpectralNorm for m in network]
    assert kept == [True, True, False]


def test_a_normalised_layer_may_be_the_whole_module() -> None:
    torch.manual_seed(0)
    plain = spectral_norm(nn.Linear(4, 5)).double()
    batched = copy.deepcopy(plain)
    BatchedSpectralNorm(batched)
    x = torch.randn(2, 4, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(batched(x), plain(x), rtol=1e-12, atol=1e-12)
    _assert_alike(plain, batched)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_network_is_one_graph(networks, training: bool) -> None:
    plain, batched, _ = networks
    plain.train(training), batched.train(training)
    compiled = torch.compile(batched, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        for network in (plain, compiled):
            network.zero_grad()
            network(*_batch()).sum().backward()
        _assert_alike(plain, batched)
