"""What one training run of a study is, as plain data in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import write_json

FILE = "spec.json"


@dataclass(frozen=True)
class Data:
    """Where images come from: see :func:`topk_plugin.engine.data.open.open_images`.

    Attributes:
        name: DATA.name.
        train: file or folder of the training split, or None for the named set's own.
        test: the same of the test split; None: ``train`` holds it too.
    """

    name: str
    train: str | None
    test: str | None

    @property
    def file_names(self) -> tuple[str, str]:
        """Those of the training and the test images without folders; "" for the set's own."""
        train, test = (
            ("" if file is None else Path(file).name) for file in (self.train, self.test)
        )
        return train, test


@dataclass(frozen=True)
class RunSpec:
    """One run.

    Attributes:
        gan: what is compared: all runs of a GAN and a seed share weights, images and latents.
        arm: which side of the comparison.
        seed: of weights, data order, latents and augmentation.
        config: the sections, as :meth:`topk_plugin.engine.config.config.Config.to_dict` has them.
        data: the images.
        hold_out: a class that the training never sees, for anomaly detection; None: all are used.
        precision: "fp32" or "bf16".
        threads: CPU threads of the process.
        device: "cpu" or "cuda".
        extractor: "builtin", "imagenet" or "inception".
        inception_weights: their file, or None.
        samples: generated images of a measurement.
        measured_at: the steps after which it is measured, beside step 0; the last is the end.
        final_extractor: another extractor, for one more measurement at the end; None: none.
        precision_choice: what :mod:`topk_plugin.study.precision` measured, for the records.
        studiogan: a StudioGAN checkout that trains it; None: the built-in trainer does.
    """

    gan: str
    arm: str
    seed: int
    config: dict[str, Any]
    data: Data
    hold_out: str | None
    precision: str
    threads: int
    device: str
    extractor: str
    inception_weights: str | None
    samples: int
    measured_at: tuple[int, ...]
    final_extractor: str | None = None
    precision_choice: dict[str, Any] | None = None
    studiogan: str | None = None

    @property
    def name(self) -> str:
        """The run's folder, below that of all runs."""
        return f"{self.gan}/{self.arm}-{self.seed}"

    @property
    def steps(self) -> int:
        """Training steps."""
        total: int = self.config["OPTIMIZATION"]["total_steps"]
        return total

    def write(self, folder: Path) -> None:
        """Write ``folder/spec.json``.

        Raises:
            UserError: it can't be written.
        """
        write_json(folder / FILE, asdict(self), indent=1)

    def check_same(self, folder: Path) -> None:
        """A folder may only go on with the run that it holds: files may move, threads may change.

        Raises:
            UserError: ``folder`` holds another run.
        """
        if not (folder / FILE).exists():
            return
        mine, before = self._identity(), RunSpec.read(folder)._identity()
        changed = [name for name in mine if mine[name] != before[name]]
        if changed:
            raise UserError(
                f"{folder} holds a run with another {' and '.join(changed)}; give another folder, "
                "or remove that one"
            )

    def _identity(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["data"] = (self.data.name, *self.data.file_names)
        fields["studiogan"] = self.studiogan is not None
        free = ("threads", "inception_weights", "precision_choice")
        return {name: value for name, value in fields.items() if name not in free}

    @classmethod
    def read(cls, folder: Path) -> "RunSpec":
        """What ``folder/spec.json`` says."""
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        lists = {"data": Data(**content["data"]), "measured_at": tuple(content["measured_at"])}
        return cls(**content | lists)
