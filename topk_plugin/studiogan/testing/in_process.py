"""The real StudioGAN in this process: with the adapter, or as it is.

As it is, it starts neither on a CPU nor with today's libraries, so :func:`start_bare` puts
stand-ins in the place of what is missing around it (pkg_resources, a wandb account, a GPU). This
file imports nothing of topk_plugin then, so that it can be executed where the plugin is not.

Its modules have names such as ``config`` and ``utils``: only one StudioGAN fits into a process.
"""

import contextlib
import importlib
import logging
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from packaging import version

Tree = dict[str, dict[str, Any]]

# A BigGAN that a CPU trains in no time. Not called CIFAR10, which StudioGAN would download.
SMALL: Tree = {
    "DATA": {"name": "MY_DATASET", "img_size": 32, "num_classes": 10},
    "MODEL": {
        "backbone": "big_resnet",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "PD",
        "apply_g_sn": True,
        "apply_d_sn": True,
        "apply_attn": True,
        "attn_g_loc": [2],
        "attn_d_loc": [1],
        "z_dim": 20,
        "g_shared_dim": 16,
        "g_conv_dim": 8,
        "d_conv_dim": 8,
    },
    "LOSS": {"adv_loss": "hinge"},
    "OPTIMIZATION": {"batch_size": 16},
}

# The file that StudioGAN looks for with -hdf5 and the data above.
HDF5_NAME = "MY_DATASET_32_wo_resize_train.hdf5"


class _Cpu(str):
    """The CPU to torch; the device number 0, which is the rank too, to StudioGAN."""

    def __new__(cls) -> "_Cpu":
        return super().__new__(cls, "cpu")

    def __eq__(self, other: object) -> bool:
        return other == 0

    def __ne__(self, other: object) -> bool:
        return other != 0

    def __hash__(self) -> int:
        return hash(0)

    def __radd__(self, other: Any) -> Any:
        return other


def merged(tree: Tree, changes: Tree) -> Tree:
    """A config with the sections of ``changes`` written over it."""
    names = tree.keys() | changes.keys()
    return {name: {**tree.get(name, {}), **changes.get(name, {})} for name in names}


def start_adapted(source: Path) -> None:
    """StudioGAN's modules can be imported, and get the adapter."""
    from topk_plugin.studiogan.activation import activate

    sys.path.insert(0, str(source))
    activate(source)


def start_bare(source: Path) -> None:
    """StudioGAN's modules can be imported, and stay as they are."""
    sys.path.insert(0, str(source))
    wandb: Any = types.ModuleType("wandb")
    wandb.init = wandb.log = wandb.finish = wandb.Image = lambda *_, **__: None
    pkg_resources: Any = types.ModuleType("pkg_resources")
    pkg_resources.parse_version = version.parse
    sys.modules |= {"wandb": wandb, "pkg_resources": pkg_resources}
    for owner, name, value in (
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", _Cpu),
        (torch.Tensor, "cuda", lambda self: self),  # the optimizer's state of a checkpoint
    ):
        setattr(owner, name, value)
    # Two losses are made for the device "cuda".
    losses: Any = importlib.import_module("utils.losses")
    for name in ("ConditionalContrastiveLoss", "Data2DataCrossEntropyLoss"):
        _put_on_cpu(getattr(losses, name))


def _put_on_cpu(loss: Any) -> None:
    original = loss.__init__
    loss.__init__ = lambda self, **given: original(self, **{**given, "master_rank": "cpu"})


def run_main(source: Path, arguments: Sequence[str]) -> None:
    """Execute StudioGAN's main.py as a program, after :func:`start_bare`."""
    file = str(source / "main.py")
    sys.argv = [file, *arguments]
    exec(compile(Path(file).read_bytes(), file, "exec"), {"__name__": "__main__"})


def write_config(tree: Tree, path: Path) -> Path:
    """Write a config of StudioGAN's."""
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def make_worker(
    tree: Tree, folder: Path, *, data_parallel: bool = False, mixed_precision: bool = False
) -> Any:
    """StudioGAN's WORKER, or the adapter's, on the CPU, with random data: one batch an epoch.

    Made as StudioGAN's ``main.py`` and ``loader.py`` make it, without the data set.

    Args:
        tree: the config.
        folder: where the run may write.
        data_parallel: wrap the networks in DataParallel, as StudioGAN does with several GPUs.
        mixed_precision: StudioGAN's flag -mpc.
    """
    main, loader, model = (
        importlib.import_module(name) for name in ("main", "loader", "models.model")
    )
    file = write_config(tree, folder / "config.yaml")
    arguments = ["main.py", "-t", "-cfg", file, "-data", folder, "-save", folder, "--seed", "1"]
    arguments += ["-mpc"] * mixed_precision
    with patch("sys.argv", [*map(str, arguments), "-metrics", "none"]):
        cfgs, _, run_name, *_ = main.load_configs_initialize_training()
    sizes = cfgs.OPTIMIZATION
    sizes.basket_size = sizes.batch_size * sizes.acml_steps * sizes.d_updates_per_step
    torch.manual_seed(0)
    sections = {
        name: getattr(cfgs, name)
        for name in ("DATA", "OPTIMIZATION", "MODEL", "STYLEGAN", "MODULES", "RUN")
    }
    names = ["Gen", "Gen_mapping", "Gen_synthesis", "Dis"]
    names += ["Gen_ema", "Gen_ema_mapping", "Gen_ema_synthesis", "ema"]
    parts = model.load_generator_discriminator(**sections, device="cpu", logger=None)
    networks = dict(zip(names, parts, strict=True))
    cfgs.define_optimizer(networks["Gen"], networks["Dis"])
    if data_parallel:
        networks |= {name: torch.nn.DataParallel(networks[name]) for name in ("Gen", "Dis")}
    data = torch.utils.data.TensorDataset(
        torch.rand(sizes.basket_size, 3, 32, 32) * 2 - 1,
        torch.randint(cfgs.DATA.num_classes, (sizes.basket_size,)),
    )
    unused = ("eval_model", "eval_dataloader", "mu", "sigma", "real_feats", "best_fid")
    worker = loader.WORKER(
        cfgs=cfgs,
        run_name=run_name,
        **networks,
        **dict.fromkeys((*unused, "best_ckpt_path", "lecam_emas")),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=sizes.basket_size),
        global_rank=0,
        local_rank="cpu",
        logger=logging.getLogger("studiogan"),
        aa_p="N/A",
        best_step=0,
        num_eval={},
        loss_list_dict={},
        metric_dict_during_train={},
    )
    for loss in ("cond_loss", "cond_loss_mi"):
        with contextlib.suppress(AttributeError):  # most configs have none
            getattr(worker, loss).master_rank = "cpu"
    worker.training, worker.topk = True, sizes.batch_size
    worker.prepare_train_iter(epoch_counter=0)
    return worker
