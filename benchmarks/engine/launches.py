"""How many operations one training iteration starts on a device: StudioGAN's trainer and ours.

    python -m benchmarks.engine.launches --studiogan CHECKOUT

A GPU starts at least one kernel for each, and small GANs are bound by that, not by arithmetic. The
counts are taken on the pretend device (benchmarks/pretend_device), where torch behaves as on an
accelerator: its optimisers take their multi-tensor form, views cost nothing. The number of channels
doesn't matter for them. "With our kernels" counts conditional batch norm and the gate as the
launches of their Triton kernels, which the pretend device can't run: plain operations compute in
their place. Attention is counted as torch's plain form of it, since the fused one exists on GPUs
only. ``reads`` are the places where the host would have waited for the device.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from benchmarks.common import save_result
from benchmarks.pretend_device.device import Counts, counted, load
from topk_plugin.engine.config.config import load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.trainer import Trainer
from topk_plugin.ops.dispatch import OPS
from topk_plugin.ops.kernel_proof import without_proofs
from topk_plugin.ops.normalise_and_modulate import Modulation
from topk_plugin.studiogan.checkout import source_folder
from topk_plugin.studiogan.testing.in_process import Tree, make_worker, start_adapted

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "CIFAR10"
MODELS = ("BigGAN", "ContraGAN")
WARM_UP = 2
STUDIOGAN, OURS, WITH_KERNELS = "StudioGAN", "built in", "built in, with our kernels"
MOST = 12  # operations that the page names


def main() -> None:
    parser = argparse.ArgumentParser(description="Operations that one training iteration starts.")
    parser.add_argument("--studiogan", type=Path, help="a PyTorch-StudioGAN checkout")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/launches"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        device = load(Path(folder))
        for model in MODELS:
            config = CONFIGS / f"{model}-TopK.yaml"
            found = {OURS: _of_ours(config, device)}
            with _as_kernels() as hidden:
                counts = _of_ours(config, device, hidden)
            found[WITH_KERNELS] = counts
            if options.studiogan is not None:
                found[STUDIOGAN] = _of_studiogan(config, options.studiogan, device, Path(folder))
            rows.append({"model": model, "trainers": {n: vars(c) for n, c in found.items()}})
            print(model, {n: (c.launches, sum(c.reads.values())) for n, c in found.items()})
    command = "python -m benchmarks.engine.launches --studiogan CHECKOUT"
    save_result(options.save, {"command": command, "rows": rows}, report)


def _third_iteration(iterate: Callable[[], object], hidden: list[int] | None = None) -> Counts:
    for _ in range(WARM_UP):
        iterate()
    if hidden is not None:
        hidden.clear()  # of the warm-up
    with counted() as counts:
        iterate()
    if hidden:
        counts.operations["(what stands in for our kernels)"] = -sum(hidden)
    return counts


def _of_ours(config: Path, device: torch.device, hidden: list[int] | None = None) -> Counts:
    loaded = load_config(config, [f"MODEL.{name}_conv_dim=8" for name in "gd"])
    count = 8 * loaded.OPTIMIZATION.batch_size * loaded.OPTIMIZATION.d_updates_per_step
    labels = torch.arange(count) % loaded.DATA.num_classes
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    names = tuple(map(str, range(loaded.DATA.num_classes)))
    images = ImageSet(pixels, labels, names, "random pixels", "random pixels")
    return _third_iteration(Trainer(loaded, images, seed=0, device=device).step, hidden)


def _of_studiogan(config: Path, checkout: Path, device: torch.device, folder: Path) -> Counts:
    start_adapted(source_folder(checkout.resolve()))
    tree: Tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["DATA"]["name"] = "MY_DATASET"  # the name CIFAR10 would download
    tree["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    worker = make_worker(tree, folder)
    worker.logger = logging.getLogger("studiogan")
    for network in (worker.Gen, worker.Dis, worker.Gen_ema):
        if network is not None:
            network.to(device)
    worker.local_rank = device
    for name in ("cond_loss", "cond_loss_mi"):
        if hasattr(worker, name):
            getattr(worker, name).to(device).master_rank = device

    def iterate() -> None:
        worker.train_discriminator(current_step=0)
        worker.train_generator(current_step=0)

    return _third_iteration(iterate)


# --- stand-ins for kernels ------------------------------------------------------------------------


@contextmanager
def _as_kernels() -> Iterator[list[int]]:
    """Triton kernels' places are taken by plain operations; gives how many launches they add."""
    from topk_plugin.ops.kernels import conditional_batch_norm_triton, gate_rows_triton

    hidden: list[int] = []

    def stand_in(work: Callable[..., Any], launches: int) -> Callable[..., Any]:
        def counted_as(*arguments: Any) -> Any:
            before = _operations()
            result = work(*arguments)
            hidden.append(_operations() - before - launches)
            return result

        return counted_as

    norm = conditional_batch_norm_triton
    with ExitStack() as stack:
        stack.enter_context(without_proofs())
        for op in ("conditional_batch_norm_relu", "gate_rows"):
            stack.enter_context(patch.dict(OPS, {op: ("triton", "triton", "triton")}))
        for module, name, work, launches in (
            (norm, "batch_statistics", _statistics, 2),
            (norm, "forward", _forward, 1),
            (norm, "backward_sums", _backward_sums, 2),
            (norm, "backward", _backward, 1),
            (gate_rows_triton, "gate_rows", _gate_rows, 1),
        ):
            stack.enter_context(patch.object(module, name, stand_in(work, launches)))
        yield hidden


def _operations() -> int:
    counts = dict(torch.ops.pretend_device.counts())
    return sum(number for name, number in counts.items() if name.startswith("operation: "))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, variance


def _normalised(call: Modulation) -> Tensor:
    return (call.x - call.mean[:, None, None]) * call.rstd[:, None, None]


def _forward(call: Modulation) -> Tensor:
    gain, bias = call.gain[..., None, None], call.bias[..., None, None]
    result = _normalised(call) * (1 + gain) + bias
    return result.relu() if call.relu else result


def _behind_relu(gradient: Tensor, call: Modulation) -> Tensor:
    return torch.where(_forward(call) > 0, gradient, 0.0) if call.relu else gradient


def _backward_sums(gradient: Tensor, call: Modulation) -> tuple[Tensor, Tensor, Tensor]:
    behind = _behind_relu(gradient, call)
    total = behind.sum((2, 3))
    along = (behind * _normalised(call)).sum((2, 3))
    weight = 1 + call.gain
    return along, total, torch.stack([(total * weight).sum(0), (along * weight).sum(0)])


def _backward(gradient: Tensor, call: Modulation, sums: Tensor) -> Tensor:
    result = _behind_relu(gradient, call) * (1 + call.gain)[..., None, None]
    if call.value_count is not None:
        total, along = (row[:, None, None] for row in sums)
        result = result - (total + _normalised(call) * along) / call.value_count
    return result * call.rstd[:, None, None]


def _gate_rows(gradient: Tensor, weights: Tensor) -> Tensor:
    return gradient * weights.view(*weights.shape, *[1] * (gradient.dim() - weights.dim()))


# --- the page -------------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [
        "# Operations that one training iteration starts",
        "",
        f"`{result['command']}`; python {result['environment']['python']}, torch "
        f"{result['environment']['torch']}. Counted on a pretend device, no GPU was used; what the "
        "numbers are is in benchmarks/engine/launches.py. An iteration is that of the YAML file: "
        "data, the critic's updates, one update of the generator, moving average, optimisers.",
        "",
        "| config | trainer | operations | of StudioGAN's | reads by the host | copies from it |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        trainers = row["trainers"]
        launches = {name: sum(t["operations"].values()) for name, t in trainers.items()}
        for name, found in trainers.items():
            share = f"{launches[name] / launches[STUDIOGAN]:.2f}" if STUDIOGAN in launches else "-"
            reads = sum(found["reads"].values())
            lines.append(
                f"| {row['model']} | {name} | {launches[name]} | {share} | {reads} | "
                f"{found['copies_in']} |"
            )
    for row in result["rows"]:
        lines += ["", f"## {row['model']}: the most frequent operations"]
        for name, found in row["trainers"].items():
            top = sorted(found["operations"].items(), key=lambda item: -item[1])[:MOST]
            words = ", ".join(f"`{op.removeprefix('aten::')}` {number}" for op, number in top)
            lines += ["", f"{name}: {words}."]
            if found["reads"]:
                reads = ", ".join(f"`{op}` {number}" for op, number in found["reads"].items())
                lines += ["", f"{name}, reads: {reads}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
