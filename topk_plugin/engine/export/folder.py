"""The folder that `topk-plugin export` writes."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from topk_plugin.base.environment import environment
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import unwritable, write_json
from topk_plugin.engine.checkpoint import Checkpoint
from topk_plugin.engine.export.card import model_card
from topk_plugin.engine.export.program import generator_program, largest_difference
from topk_plugin.engine.export.weights import AVERAGE, WEIGHTS, save_generator, weights_of
from topk_plugin.engine.run_folder import CONFIG
from topk_plugin.engine.sample_grid import class_grid, generate, save_grid

PROGRAM, FACTS, CARD, SCRIPT, PICTURE = (
    "generator.pt2",
    "export.json",
    "README.md",
    "sample.py",
    "samples.png",
)
# Of a pixel, images being in (-1, 1); a grey level is 2 / 255.
LARGEST_DIFFERENCE = 1e-5
STANDALONE = Path(__file__).with_name("standalone.py")
COLUMNS = 10


def export(checkpoint: Checkpoint, folder: Path, *, raw: bool) -> dict[str, Any]:
    """Write a checkpoint's generator for people who have torch, with or without this package.

    Args:
        checkpoint: of a run.
        folder: appears at once, whole.
        raw: the generator itself, and not its moving average.

    Returns:
        The content of export.json.

    Raises:
        UserError: the folder is there already or can't be written, the generator has diverged, or
            the exported program does not compute what the generator does.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"-save {folder} is there already; give another folder, or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            facts = _write(checkpoint, unfinished, raw=raw)
            unfinished.chmod(0o755)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return facts


def _write(checkpoint: Checkpoint, folder: Path, *, raw: bool) -> dict[str, Any]:
    config, weights = checkpoint.config, weights_of(checkpoint, raw=raw)
    sampler = checkpoint.sampler(use_ema=weights == AVERAGE)
    latents, labels = class_grid(config, seed=0, device=torch.device("cpu"), columns=COLUMNS)
    images = generate(sampler, latents, labels, batch_size=config.OPTIMIZATION.batch_size)
    save_grid(folder / PICTURE, images, columns=COLUMNS)
    program = generator_program(sampler, config)
    difference = largest_difference(program, sampler, config)
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"the exported program's images differ from the generator's by {difference:.1e}, more "
            f"than {LARGEST_DIFFERENCE:.0e}, with torch {torch.__version__}; nothing was exported, "
            "try another version of torch"
        )
    torch.export.save(program, folder / PROGRAM)
    save_generator(folder / WEIGHTS, checkpoint, weights)
    (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    shutil.copyfile(STANDALONE, folder / SCRIPT)
    described = environment()
    facts: dict[str, Any] = {
        "step": checkpoint.step,
        "seed": checkpoint.seed,
        "weights": weights,
        "generator": {
            "z_dim": config.MODEL.z_dim,
            "z_prior": config.MODEL.z_prior,
            "img_size": config.DATA.img_size,
            "num_classes": config.DATA.num_classes,
            "rows": labels[::COLUMNS].tolist(),
        },
        "metrics": _metrics(checkpoint, weights),
        "measured_with": checkpoint.progress.measured_with,
        "largest_difference_of_the_program": difference,
        "versions": {name: described[name] for name in ("topk_plugin", "torch")},
    }
    write_json(folder / FACTS, facts)
    (folder / CARD).write_text(model_card(checkpoint, facts), encoding="utf-8")
    return facts


def _metrics(checkpoint: Checkpoint, weights: str) -> dict[str, float]:
    """What was measured at the checkpoint's step; metrics are the moving average's if there is one.

    {} where nothing was.
    """
    if weights != weights_of(checkpoint, raw=False):
        return {}
    for entry in checkpoint.progress.history:
        if entry["step"] == checkpoint.step:
            return {name: value for name, value in entry.items() if name != "step"}
    return {}
