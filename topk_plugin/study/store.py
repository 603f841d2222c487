"""What a study's folder keeps, so that it goes on, grows and reports without being told again."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.engine.config.config import load_config
from topk_plugin.study.spec import Data
from topk_plugin.study.study import Arm, Gan, Study

CONFIG = "config.yaml"
FILE = "study.json"


@dataclass(frozen=True)
class Kept:
    """A study's folder as data.

    Attributes:
        gan: the name of what is compared: the config's file name.
        arms: name -> overrides, the baseline first.
        seeds: how many.
        data: the images.
        precision: "fp32", "bf16" or "auto".
        extractor: "builtin", "imagenet" or "inception".
        samples: generated images of a measurement.
        looks: measurements along a run.
        late_looks: so many of them in its last quarter.
        sequential: verdicts at the looks of a sequential design.
    """

    gan: str
    arms: dict[str, tuple[str, ...]]
    seeds: int
    data: Data
    precision: str
    extractor: str
    samples: int
    looks: int
    late_looks: int
    sequential: bool

    def study(self, folder: Path) -> Study:
        """As it is run."""
        arms = tuple(Arm(name, tuple(overrides)) for name, overrides in self.arms.items())
        gan = Gan(self.gan, folder / CONFIG, (), arms, seeds=self.seeds)
        return Study(
            name=self.gan,
            title=f"{self.gan}: {', '.join(self.arms)}",
            gans=(gan,),
            baseline=arms[0].name,
            precision=self.precision,
            extractor=self.extractor,
            samples=self.samples,
            looks=self.looks,
            late_looks=self.late_looks,
            co_primary=("recall",),
            sequential=self.sequential,
        )

    def grown(
        self, arms: dict[str, tuple[str, ...]], seeds: int | None, baseline: str | None
    ) -> "Kept":
        """With more arms or seeds; those that are there stay as they are.

        Raises:
            UserError: an arm is to mean something else, or another arm is to be the baseline.
        """
        for name, overrides in arms.items():
            if name in self.arms and tuple(self.arms[name]) != tuple(overrides):
                raise UserError(
                    f"--arm {name} is {_said(overrides)}, but in this study it is "
                    f"{_said(self.arms[name])}; give the arm another name"
                )
        first = next(iter(self.arms))
        if baseline is not None and baseline != first:
            raise UserError(
                f"--baseline {baseline}, but everything in this study is compared with {first}; "
                "give another folder to -save"
            )
        return replace(self, arms=self.arms | arms, seeds=max(self.seeds, seeds or 0))

    def write(self, folder: Path) -> None:
        """Write ``folder/study.json``.

        Raises:
            UserError: it can't be written.
        """
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Kept | None":
        """What ``folder`` keeps; None where it holds no study.

        Raises:
            UserError: the file is damaged.
        """
        file = folder / FILE
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            content["data"] = Data(**content["data"])
            content["arms"] = {name: tuple(given) for name, given in content["arms"].items()}
            return cls(**content)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{file} is no study of this version ({error}); give another folder to -save, or "
                "remove that file and give -cfg and --arm again"
            ) from error


def keep_config(config: Path, overrides: Sequence[str], folder: Path) -> None:
    """Keep the config of all arms, or refuse another one than the folder has.

    Raises:
        UserError: the config is wrong, or differs from that of the runs in ``folder``.
    """
    given = load_config(config, list(overrides))
    kept = folder / CONFIG
    if not kept.exists():
        with atomic_write(kept) as temporary:
            temporary.write_text(given.to_yaml(), encoding="utf-8")
        return
    before = load_config(kept, []).to_dict()
    changed = [
        f"{section}.{key} {before[section].get(key)!r} -> {value!r}"
        for section, values in given.to_dict().items()
        for key, value in values.items()
        if before[section].get(key) != value
    ]
    if changed:
        raise UserError(
            f"the study in {folder} was begun with another config ({', '.join(changed)}); give "
            "another folder to -save, or leave out -cfg to go on with its own"
        )


def gan_name(config: Path) -> str:
    """The config's file name, as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", config.stem).strip("-.") or "gan"


def _said(overrides: Sequence[str]) -> str:
    return " ".join(overrides) or "the config as it is"
