from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from topk_plugin.errors import UserError
from topk_plugin.studiogan.fixes.cpu import FIX, PROCESSES, CudaIsTheCPU, cpu_processes, on_cpu

CPU = torch.device("cpu")
numbers = st.integers(0, 63)
gpus = st.one_of(
    numbers,
    st.just("cuda"),
    numbers.map("cuda:{}".format),
    st.just(torch.device("cuda")),
    numbers.map(lambda n: torch.device("cuda", n)),
)

# All the ways in which StudioGAN gives a device.
USES: list[Callable[[Any], torch.Tensor]] = [
    lambda d: torch.arange(3.0).to(d),
    lambda d: torch.arange(3.0).to(d, torch.float64),
    lambda d: torch.arange(3.0).to(device=d),
    lambda d: torch.arange(3.0).cuda(),
    lambda d: torch.arange(3.0).cuda(d),
    lambda d: torch.arange(3.0, device=d),
    lambda d: torch.zeros(3, device=d),
    lambda d: torch.zeros([], device=d),
    lambda d: torch.randn(2, 3, device=d),
    lambda d: torch.rand(3, device=d),
    lambda d: torch.randint(3, (2, 2), device=d),
    lambda d: torch.randint(low=0, high=3, size=(2,), dtype=torch.long, device=d),
    lambda d: torch.tensor([1, 2], device=d),
    lambda d: torch.eye(3, device=d),
    lambda d: torch.linspace(0, 1, 3, device=d),
    lambda d: torch.as_tensor([1.0], device=d),
    lambda d: torch.FloatTensor(2, 3).uniform_(-1, 1).to(d),
    lambda d: torch.zeros(2).new_zeros(3, device=d),
    lambda d: torch.zeros_like(torch.zeros(2), device=d),
    lambda d: nn.Linear(2, 3).to(d).weight,
    lambda d: nn.Linear(2, 3).to(device=d).weight,
    lambda d: nn.Linear(2, 3).cuda().weight,
    lambda d: nn.BatchNorm2d(3).train().to(d).requires_grad_(False).running_mean,
    lambda d: nn.DataParallel(nn.Linear(2, 3).to(d), output_device=d)(torch.ones(1, 2, device=d)),
]


@pytest.mark.parametrize("use", USES)
@given(gpu=gpus)
def test_every_gpu_is_the_cpu_inside(use: Callable[[Any], torch.Tensor], gpu: Any) -> None:
    with CudaIsTheCPU():
        assert use(gpu).device == CPU


@given(gpu=gpus)
def test_names_of_gpus(gpu: Any) -> None:
    assert on_cpu(gpu) == CPU


@pytest.mark.parametrize("other", [None, True, "cpu", "meta", torch.float64, 1.5, CPU])
def test_all_else_stays(other: object) -> None:
    assert on_cpu(other) is other


def test_what_names_no_gpu_is_as_ever() -> None:
    with CudaIsTheCPU():
        assert torch.zeros(2, device="meta").device.type == "meta"
        assert torch.zeros(2).to(torch.float64, True).dtype == torch.float64
        assert torch.zeros(2).to(torch.zeros(1, dtype=torch.int32)).dtype == torch.int32
        assert nn.Linear(2, 3).to(torch.float64).weight.dtype == torch.float64
        tensor = torch.zeros(2)
        assert tensor.to(0) is tensor  # as on a GPU that has it already
        assert tensor.cuda() is tensor


@given(seed=st.integers(0, 2**32))
def test_numbers_are_the_same(seed: int) -> None:
    def train() -> list[torch.Tensor]:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))
        optimizer = torch.optim.Adam(network.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.randn(4, 3)).mean().backward()
            optimizer.step()
        return list(network.state_dict().values())

    plain = train()
    with CudaIsTheCPU():
        assert all(map(torch.equal, plain, train()))


def test_contexts_leave_nothing_behind() -> None:
    names = ("device_count", "current_device", "set_device")
    before = [getattr(torch.cuda, name) for name in names]
    for context in (FIX.around_main, FIX.around_worker):
        assert context is not None
        with context():
            pass
        with pytest.raises(ZeroDivisionError), context():
            raise ZeroDivisionError
        assert [getattr(torch.cuda, name) for name in names] == before
        assert _get_current_function_mode_stack() == []


def test_main_finds_as_many_gpus_as_processes_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FIX.around_main is not None
    assert FIX.around_worker is not None
    monkeypatch.delenv(PROCESSES, raising=False)
    with FIX.around_main():
        assert (torch.cuda.device_count(), torch.cuda.current_device()) == (1, 0)
    monkeypatch.setenv(PROCESSES, "3")
    with FIX.around_main():
        assert torch.cuda.device_count() == 3
    with FIX.around_worker():
        torch.cuda.set_device(2)


@given(st.text().filter(lambda text: "\0" not in text and not text.isdecimal()))
def test_other_numbers_of_processes_are_refused(text: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for wrong in ("0", "-1", text):
            try:
                monkeypatch.setenv(PROCESSES, wrong)
            except UnicodeEncodeError:
                continue
            with pytest.raises(UserError, match=f"{PROCESSES} must be a whole number above 0, not"):
                cpu_processes()


def config_module() -> Any:
    class Configurations:
        def __init__(self, **run: Any) -> None:
            defaults = {
                "distributed_data_parallel": True,
                "backend": "gloo",
                "synchronized_bn": False,
            }
            self.RUN = SimpleNamespace(**defaults | run)
            self.OPTIMIZATION = SimpleNamespace(world_size=2)
            self.checked = False

        def check_compatability(self) -> None:
            self.checked = True

    module = SimpleNamespace(Configurations=Configurations)
    FIX.after["config"](module)  # type: ignore[arg-type]
    return module


def test_what_ddp_has_not_on_a_cpu_is_said_at_the_start() -> None:
    make = config_module().Configurations
    for cfgs in (make(), make(distributed_data_parallel=False, backend="nccl")):
        cfgs.check_compatability()
        assert cfgs.checked
    with pytest.raises(UserError, match="--backend gloo"):
        make(backend="nccl").check_compatability()
    with pytest.raises(UserError, match="leave -sync_bn out"):
        make(synchronized_bn=True).check_compatability()
    single = make()
    single.OPTIMIZATION.world_size = 1
    with pytest.raises(UserError, match=f"set {PROCESSES}=2"):
        single.check_compatability()


@pytest.mark.parametrize("name", ["models.model", "metrics.preparation"])
def test_ddp_gets_no_device_ids(name: str) -> None:
    module: Any = ModuleType(name)
    module.DDP = lambda network, **options: (network, options)
    FIX.after[name](module)
    assert module.DDP("network", device_ids=[1], broadcast_buffers=False) == (
        "network",
        {"broadcast_buffers": False},
    )
