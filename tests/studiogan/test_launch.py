"""StudioGAN's main.py with the adapter: launched without a patch, and patched."""

import json
import shutil
from pathlib import Path

import pytest

from tests.studiogan.stand_in import ROOT, Finished, run_python
from topk_plugin.studiogan import patcher
from topk_plugin.studiogan.packages import REMEDY

# Relative paths, as a user gives them from the folder that they are in.
ARGUMENTS = ("-t", "-cfg", "settings.json", "-save", "out")


def launch(folder: Path, checkout: Path | str, *arguments: object, **environment: str) -> Finished:
    module = "topk_plugin.studiogan.launch"
    return run_python(folder, "-m", module, checkout, *arguments, **environment)


# How StudioGAN starts processes, and how Python's DataLoader does since 3.14.
start_methods = pytest.mark.parametrize("method", ["spawn", "forkserver"])


@start_methods
def test_parent_and_started_child_have_the_adapter(
    tmp_path: Path, stand_in: Path, method: str
) -> None:
    main = (stand_in / "src" / "main.py").read_bytes()
    done = launch(tmp_path, stand_in.name, *ARGUMENTS, "--start", method)
    assert done.status == 0, done.err
    assert done.records.keys() == {"parent", "child"}
    source = str(stand_in / "src")
    for record in done.records.values():
        assert record["adapted"]
        assert "topk_mode" in record["flags"]
        assert record["first_on_path"] == source
        assert record["module"] == "loader"
    arguments = [*ARGUMENTS, "--start", method]
    assert done.records["parent"]["arguments"] == [f"{source}/main.py", *arguments]
    assert done.err.count("adapter on") == 1
    assert (stand_in / "src" / "main.py").read_bytes() == main


@start_methods
def test_patched_parent_and_started_child_have_the_adapter(
    tmp_path: Path, stand_in: Path, method: str
) -> None:
    main = stand_in / "src" / "main.py"
    before = run_python(tmp_path, main, *ARGUMENTS, "--start", method)
    assert [r["adapted"] for r in before.records.values()] == [False, False]
    patcher.patch(stand_in)
    after = run_python(tmp_path, main, *ARGUMENTS, "--start", method)
    assert after.status == 0, after.err
    assert [r["adapted"] for r in after.records.values()] == [True, True]
    assert after.err.count("adapter on") == 1


def test_a_fork_server_does_not_announce_itself(tmp_path: Path, stand_in: Path) -> None:
    """Since Python 3.14 it imports the main module ahead, under the parent's process name."""
    patcher.patch(stand_in)
    source = stand_in / "src"
    ahead = (
        f"import sys; sys.path.insert(0, {str(source)!r}); from multiprocessing import process, "
        "spawn; process.current_process()._inheriting = True; "
        f"spawn.import_main_path({str(source / 'main.py')!r}); "
        "import config; print(config.Configurations.load_base_cfgs.__name__, file=sys.stderr)"
    )
    done = run_python(tmp_path, "-c", ahead)
    assert done.err == "load_with_flags\n"


def test_a_patched_checkout_can_be_launched(tmp_path: Path, stand_in: Path) -> None:
    patcher.patch(stand_in)
    done = launch(tmp_path, stand_in, *ARGUMENTS)
    assert done.status == 0, done.err
    assert done.records["parent"]["adapted"]
    assert done.err.count("adapter on") == 1


def test_the_plugin_may_lie_in_the_current_folder_only(tmp_path: Path, stand_in: Path) -> None:
    folder = tmp_path / "here"
    shutil.copytree(ROOT / "topk_plugin", folder / "topk_plugin")
    done = launch(folder, stand_in, *ARGUMENTS, "--start", "spawn", PYTHONPATH="")
    assert done.status == 0, done.err
    assert [r["adapted"] for r in done.records.values()] == [True, True]


def test_a_safe_path_keeps_its_first_entry(tmp_path: Path, stand_in: Path) -> None:
    done = launch(tmp_path, stand_in, *ARGUMENTS, PYTHONSAFEPATH="1")
    assert done.status == 0, done.err
    assert done.records["parent"]["first_on_path"] == str(stand_in / "src")


def test_wrong_arguments_are_argparses_affair(tmp_path: Path, stand_in: Path) -> None:
    done = launch(tmp_path, stand_in, "--cfg")
    assert done.status == 2
    assert done.err.rstrip().splitlines()[-1].startswith("main.py: error:")


def test_another_failure_keeps_its_traceback(tmp_path: Path, stand_in: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"fail": True}))
    done = launch(tmp_path, stand_in, *ARGUMENTS)
    assert done.status == 1
    assert f'File "{stand_in}/src/main.py"' in done.err
    assert done.err.rstrip().endswith("RuntimeError: a failure of its own")


def refused(folder: Path, checkout: Path, **environment: str) -> Finished:
    (folder / "settings.json").write_text(json.dumps({"fail": "assert"}))
    return launch(folder, checkout, *ARGUMENTS, **environment)


def unknown_key(folder: Path, checkout: Path) -> Finished:
    (folder / "settings.json").write_text(json.dumps({"learning": 1}))
    return launch(folder, checkout, *ARGUMENTS)


def test_a_refusal_of_studiogans_shows_its_traceback_on_request(
    tmp_path: Path, stand_in: Path
) -> None:
    done = refused(tmp_path, stand_in, TOPK_PLUGIN_TRACEBACK="1")
    assert done.status == 1
    assert f'File "{stand_in}/src/config.py"' in done.err
    assert "AssertionError: batch_size" in done.err


def test_an_assert_without_words_keeps_its_traceback(tmp_path: Path, stand_in: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"fail": "assert without words"}))
    done = launch(tmp_path, stand_in, *ARGUMENTS)
    assert done.status == 1
    assert "Traceback" in done.err


def test_an_assert_in_a_library_keeps_its_traceback(tmp_path: Path, stand_in: Path) -> None:
    (tmp_path / "library.py").write_text("def check():\n    assert False, 'no x'\n")
    (stand_in / "src" / "loader.py").write_text("from library import check\ncheck()\n")
    path = f"{ROOT}:{tmp_path}"
    done = launch(tmp_path, stand_in, *ARGUMENTS, PYTHONPATH=path)
    assert done.status == 1
    assert done.err.rstrip().endswith("AssertionError: no x")


def wrong_flag(folder: Path, checkout: Path) -> Finished:
    (folder / "settings.json").write_text(json.dumps({"apply_topk": True, "topk_nu": 0.5}))
    return launch(folder, checkout, *ARGUMENTS)


def mistyped_flag(folder: Path, checkout: Path) -> Finished:
    (folder / "settings.json").write_text(json.dumps({"topk_gama": 0.9}))
    return launch(folder, checkout, *ARGUMENTS)


def unknown_fix(folder: Path, checkout: Path) -> Finished:
    return launch(folder, checkout, *ARGUMENTS, TOPK_PLUGIN_NO_FIX="gravity")


def missing_package(folder: Path, checkout: Path) -> Finished:
    hide(checkout, "timm.layers")
    return launch(folder, checkout, *ARGUMENTS)


def missing_pkg_resources(folder: Path, checkout: Path) -> Finished:
    hide(checkout, "pkg_resources")
    return launch(folder, checkout, *ARGUMENTS)


def hide(checkout: Path, module: str) -> None:
    """Make the loader import a module that is not installed, whether it is here or not."""
    loader = checkout / "src" / "loader.py"
    top = module.partition(".")[0]
    hiding = f"import sys\nfor n in [n for n in sys.modules if n.split('.')[0] == {top!r}]:\n"
    hiding += f"    del sys.modules[n]\nsys.modules[{top!r}] = None\nimport {module}\n"
    loader.write_text(hiding + loader.read_text())


@pytest.mark.parametrize(
    ("case", "part"),
    [
        (wrong_flag, "LOSS.apply_topk needs LOSS.topk_gamma, which has no value"),
        (mistyped_flag, "LOSS.topk_gama is no setting; did you mean LOSS.topk_gamma?"),
        (unknown_fix, "gravity"),
        (refused, "StudioGAN: batch_size should be divided by 8. (src/config.py, line 25)"),
        (refused, "; --traceback shows how it came to that"),
        (unknown_key, "StudioGAN: no attribute 'LOSS.learning' (src/config.py, line 15)"),
        (missing_package, f"timm, which is missing; {REMEDY}"),
        (missing_pkg_resources, "leave the fix pkg_resources on"),
        (lambda folder, _: launch(folder, "nowhere"), "nowhere is no StudioGAN checkout"),
        (lambda folder, _: launch(folder, folder), "src/main.py is missing"),
    ],
)
def test_one_sentence(tmp_path: Path, stand_in: Path, case, part: str) -> None:
    done = case(tmp_path, stand_in)
    assert done.status == 2
    assert done.records == {}
    lines = [x for x in done.err.splitlines() if "adapter on" not in x]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("topk-plugin: error: ")
    assert part in lines[0]


def test_a_mistake_found_in_a_started_process_is_one_sentence_too(
    tmp_path: Path, stand_in: Path
) -> None:
    loader = "from worker import WORKER\ndef load_worker(rank):\n    raise {error}\n"
    main = "import config, loader, torch\nif __name__ == '__main__':\n"
    main += "    torch.multiprocessing.spawn(loader.load_worker, nprocs=1)\n"
    (stand_in / "src" / "main.py").write_text(main)
    for module, name in (("base.errors", "UserError"), ("studiogan.flags", "TopKFlagError")):
        mistake = f"__import__('topk_plugin.{module}').{module}.{name}('no x: give y')"
        (stand_in / "src" / "loader.py").write_text(loader.format(error=mistake))
        done = launch(tmp_path, stand_in)
        assert done.status == 2
        assert "Traceback" not in done.err
        assert done.err.rstrip().splitlines()[-1] == "topk-plugin: error: no x: give y"
    (stand_in / "src" / "loader.py").write_text(loader.format(error="AssertionError('no\\ny')"))
    done = launch(tmp_path, stand_in)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "error: StudioGAN: no y (src/loader.py, line 3); --tr" in done.err.splitlines()[-1]
    (stand_in / "src" / "loader.py").write_text(loader.format(error="KeyError('x')"))
    done = launch(tmp_path, stand_in)
    assert done.status == 1
    assert "Traceback" in done.err


def test_a_module_that_only_the_user_knows_keeps_its_traceback(
    tmp_path: Path, stand_in: Path
) -> None:
    hide(stand_in, "my_own_losses")
    done = launch(tmp_path, stand_in, *ARGUMENTS)
    assert done.status == 1
    assert "Traceback" in done.err
    assert REMEDY not in done.err


@pytest.mark.studiogan
def test_the_real_main_shows_its_own_help(tmp_path: Path, studiogan_checkout: Path) -> None:
    done = launch(tmp_path, studiogan_checkout, "--help", TOPK_PLUGIN_NO_FIX="")
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
