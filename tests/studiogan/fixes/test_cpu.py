import ast
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.cpu import (
    FACTORIES,
    FIX,
    PROCESSES,
    cpu_processes,
    cuda_is_the_cpu,
    on_cpu,
)

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
    lambda d: torch.empty(3, device=d),
    lambda d: torch.eye(3, device=d),
    lambda d: torch.full((2,), 1.5, device=d),
    lambda d: torch.ones(3, device=d),
    lambda d: torch.linspace(0, 1, 3, device=d),
    lambda d: torch.as_tensor([1.0], device=d),
    lambda d: torch.FloatTensor(2, 3).uniform_(-1, 1).to(d),
    lambda d: nn.Linear(2, 3).to(d).weight,
    lambda d: nn.Linear(2, 3).to(device=d).weight,
    lambda d: nn.Linear(2, 3).cuda().weight,
    lambda d: nn.BatchNorm2d(3).train().to(d).requires_grad_(False).running_mean,
    lambda d: nn.DataParallel(nn.Linear(2, 3).to(d), output_device=d)(torch.ones(1, 2, device=d)),
]


@pytest.mark.parametrize("use", USES)
@given(gpu=gpus)
def test_every_gpu_is_the_cpu_inside(use: Callable[[Any], torch.Tensor], gpu: Any) -> None:
    with cuda_is_the_cpu():
        assert use(gpu).device == CPU


@given(gpu=gpus)
def test_names_of_gpus(gpu: Any) -> None:
    assert on_cpu(gpu) == CPU


@pytest.mark.parametrize("other", [None, True, "cpu", "meta", torch.float64, 1.5, CPU])
def test_all_else_stays(other: object) -> None:
    assert on_cpu(other) is other


def test_what_names_no_gpu_is_as_ever() -> None:
    with cuda_is_the_cpu():
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
    with cuda_is_the_cpu():
        assert all(map(torch.equal, plain, train()))


def test_contexts_leave_nothing_behind() -> None:
    cuda = [(torch.cuda, name) for name in ("device_count", "current_device", "set_device")]
    moves = [(owner, name) for owner in (torch.Tensor, nn.Module) for name in ("to", "cuda")]
    places: list[tuple[Any, str]] = [*cuda, *moves, *((torch, name) for name in FACTORIES)]
    before = [getattr(*place) for place in places]
    for context in (FIX.around_main, FIX.around_worker):
        assert context is not None
        with context():
            pass
        with pytest.raises(ZeroDivisionError), context():
            raise ZeroDivisionError
        assert [getattr(*place) for place in places] == before


@pytest.mark.studiogan
def test_every_function_that_studiogan_gives_a_device_is_known(studiogan_checkout: Path) -> None:
    named = set()
    for file in (studiogan_checkout / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig"))):
            if isinstance(node, ast.Call) and any(k.arg == "device" for k in node.keywords):
                named.add(ast.unparse(node.func))
    assert {name for name in named if name.startswith("torch.")} == {
        f"torch.{n}" for n in FACTORIES
    }


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
                "total_nodes": 1,
            }
            self.RUN = SimpleNamespace(**defaults | run)
            self.OPTIMIZATION = SimpleNamespace(world_size=2)
            self.checked = False

        def check_compatability(self) -> None:
            self.checked = True

    module = SimpleNamespace(Configurations=Configurations)
    FIX.after["config"](module)  # type: ignore[arg-type]
    return module


@pytest.fixture
def no_meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # for it to be as it was after the test
        del os.environ[name]


@pytest.mark.usefixtures("no_meeting_point")
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


def test_several_processes_need_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    cfgs = config_module().Configurations(distributed_data_parallel=False)
    with pytest.raises(UserError, match=r"^2 processes on the CPU .* need StudioGAN's -DDP"):
        cfgs.check_compatability()
    assert not cfgs.checked


@pytest.mark.usefixtures("no_meeting_point")
def test_processes_of_one_machine_find_each_other() -> None:
    make = config_module().Configurations
    make(distributed_data_parallel=False).check_compatability()
    assert "MASTER_ADDR" not in os.environ
    make().check_compatability()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))  # it is free
    os.environ |= {"MASTER_ADDR": "node0", "MASTER_PORT": "2222"}
    make(total_nodes=2).check_compatability()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node0", "2222")


@pytest.mark.usefixtures("no_meeting_point")
def test_machines_have_to_be_told_where_they_meet() -> None:
    os.environ["MASTER_ADDR"] = "node0"
    with pytest.raises(UserError, match="over 2 nodes needs MASTER_PORT; set"):
        config_module().Configurations(total_nodes=2).check_compatability()


@pytest.mark.parametrize("name", ["models.model", "metrics.preparation"])
def test_ddp_gets_no_device_ids(name: str) -> None:
    module: Any = ModuleType(name)
    module.DDP = lambda network, **options: (network, options)
    FIX.after[name](module)
    assert module.DDP("network", device_ids=[1], broadcast_buffers=False) == (
        "network",
        {"broadcast_buffers": False},
    )
