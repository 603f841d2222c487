import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.no_metrics import FIX


def ckpt_module() -> Any:
    """Functions with the names of StudioGAN's that look for a file, as those do."""

    def load_best_model(ckpt_dir: str, **networks: Any) -> int:
        path = glob.glob(f"{ckpt_dir}/model=G-best-weights-step*.pth")[0]
        return int(path.removesuffix(".pth").split("=")[-1])

    def load_studiogan_ckpts(ckpt_dir: str, load_best: bool, **options: Any) -> tuple[Any, ...]:
        return ckpt_dir, load_best, options

    module = SimpleNamespace(
        load_best_model=load_best_model, load_StudioGAN_ckpts=load_studiogan_ckpts
    )
    FIX.after["utils.ckpt"](module)  # type: ignore[arg-type]
    return module


def save(folder: Path, when: str, step: int) -> None:
    for model in ("G", "D"):
        (folder / f"model={model}-{when}-weights-step={step}.pth").touch()


def test_without_a_best_checkpoint_the_step_is_that_of_the_latest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_best = ckpt_module().load_best_model
    networks = {"Gen": object(), "Dis": object(), "apply_g_ema": False}
    assert load_best(ckpt_dir=str(tmp_path), **networks) == 0
    save(tmp_path, "current", 90)
    save(tmp_path, "current", 100)
    assert load_best(ckpt_dir=str(tmp_path), **networks) == 100
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("No best checkpoint" in line for line in lines)
    assert "last saved at step 100" in lines[1]


@given(
    name=st.text("ab[]*?=-", min_size=1, max_size=8),
    best=st.integers(0, 10**7),
    current=st.integers(0, 10**7),
)
def test_a_best_checkpoint_is_loaded_as_ever(
    name: str, best: int, current: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run") / name
    folder.mkdir()
    save(folder, "current", current)
    save(folder, "best", best)
    assert ckpt_module().load_best_model(ckpt_dir=str(folder), Gen=None) == best


def test_resuming_without_a_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    resume = ckpt_module().load_StudioGAN_ckpts
    folder = str(tmp_path)
    for best, when in ((True, "best"), (False, "current")):
        with pytest.raises(UserError, match=f"no {when} checkpoint; give the folder"):
            resume(ckpt_dir=folder, load_best=best, Gen=None)
    save(tmp_path, "current", 5)
    assert resume(ckpt_dir=folder, load_best=False, Gen=1) == (folder, False, {"Gen": 1})
    with pytest.raises(UserError, match="no best checkpoint; leave -best out"):
        resume(ckpt_dir=folder, load_best=True, Gen=None)


def test_a_run_that_has_logged_nothing_can_log_pictures() -> None:
    class Worker:
        pass

    module: Any = SimpleNamespace(WORKER=Worker)
    FIX.after["worker"](module)
    assert module.WORKER().wandb_step == 0
