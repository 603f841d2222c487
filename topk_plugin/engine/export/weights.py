"""generator.safetensors: a generator's weights, and all that is needed to build it again."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from topk_plugin.base.errors import UserError
from topk_plugin.engine.checkpoint import Checkpoint, DamagedCheckpoint, RunProgress
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.content_digest import content_digest

WEIGHTS = "generator.safetensors"
AVERAGE, RAW = "moving average", "raw"
FORMAT, VERSION = "topk-plugin generator", 1


def weights_of(checkpoint: Checkpoint, *, raw: bool) -> str:
    """Which weights an export takes: AVERAGE where the run kept one, unless RAW are asked for."""
    return RAW if raw or checkpoint.trainer["generator_ema"] is None else AVERAGE


def save_generator(path: Path, checkpoint: Checkpoint, weights: str) -> None:
    """Write a checkpoint's generator, under StudioGAN's names.

    The values are the checkpoint's own, spectral normalisation included, so that images drawn
    from them are those of the checkpoint bit for bit.

    Args:
        path: the file; it is not written atomically.
        checkpoint: of the run.
        weights: AVERAGE or RAW.
    """
    state = checkpoint.trainer["generator_ema" if weights == AVERAGE else "generator"]
    state = {name: value.contiguous() for name, value in state.items()}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config.to_dict(),
        "step": checkpoint.step,
        "seed": checkpoint.seed,
        "precision": checkpoint.precision,
        # not where the images lay: that is nobody's business but the trainer's
        "data": {name: fact for name, fact in checkpoint.data.items() if name != "source"},
        "weights": weights,
        "sha256": content_digest(dict(sorted(state.items()))),
    }
    save_file(state, path, metadata={FORMAT: json.dumps(about)})


def exported_weights(place: Path) -> Path | None:
    """The weights meant by an export's folder or by the file itself; None if it is no export."""
    if place.suffix == ".safetensors":
        return place
    return place / WEIGHTS if (place / WEIGHTS).is_file() else None


def load_generator(path: Path, *, raw: bool) -> Checkpoint:
    """Read what :func:`save_generator` wrote, as a checkpoint without anything but a generator.

    Args:
        path: the file.
        raw: the raw weights are wanted, and not their moving average.

    Raises:
        DamagedCheckpoint: not what was written, or another program's file.
        UserError: it can't be read, is of another version, or holds other weights.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}); check it") from error
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(_damaged(path)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"{path} holds no generator of topk-plugin; give one that `export` wrote"
        )
    if about.get("version") != VERSION:
        raise UserError(
            f"{path} is an export of version {about.get('version')}, this program reads version "
            f"{VERSION}; use the version of topk-plugin that wrote it"
        )
    if about.get("sha256") != content_digest(dict(sorted(state.items()))):
        raise DamagedCheckpoint(_damaged(path))
    if raw and about["weights"] != RAW:
        raise UserError(
            f"--raw, but {path} holds the {about['weights']} only; drop --raw, or export the run "
            "once more with --raw"
        )
    average = about["weights"] == AVERAGE
    return Checkpoint(
        path=path,
        config=Config.from_dict(about["config"], str(path)),
        seed=int(about["seed"]),
        precision=about["precision"],
        data=about["data"],
        progress=RunProgress(),
        trainer={
            "step": about["step"],
            "generator": None if average else state,
            "generator_ema": state if average else None,
        },
    )


def _damaged(path: Path) -> str:
    return f"{path} is damaged or no safetensors file; export the run once more"
