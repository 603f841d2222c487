"""The patch goes in and out to the byte, or is refused with a reason."""

import codecs
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studiogan.stand_in import write_checkout
from topk_plugin.base.errors import UserError
from topk_plugin.studiogan import patcher
from topk_plugin.studiogan.patcher import MARK, State, patch, patch_file, read_patch, unpatch

PATCH = read_patch(patch_file().read_bytes())
LINE = PATCH.added[0]
CONTEXT = b"import config"

endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
other_lines = st.one_of(
    st.binary(max_size=12).map(lambda x: x.replace(b"\n", b" ").replace(b"\r", b" ")),
    st.sampled_from([b"import config as c", b" import config", b"# import topk_plugin", b""]),
).filter(lambda line: line != CONTEXT)
blocks = st.lists(st.tuples(other_lines, endings), max_size=6)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkout(tmp_path_factory.mktemp("patcher") / "checkout")


def main_file(checkout: Path) -> Path:
    return checkout / "src" / "main.py"


def content(checkout: Path) -> bytes:
    return main_file(checkout).read_bytes()


def write(checkout: Path, text: bytes) -> None:
    main_file(checkout).write_bytes(text)


def test_the_patch_is_one_line_above_one_line() -> None:
    assert PATCH.file == "src/main.py"
    assert (PATCH.before, PATCH.added, PATCH.after) == ([], [LINE], [CONTEXT])
    code, _, comment = LINE.partition(b"#")
    assert code.strip() == b"import " + MARK
    assert b"topk-plugin studiogan unpatch" in comment


@given(before=blocks, after=blocks, end=endings, bom=st.booleans(), cut=st.booleans())
def test_round_trip_to_the_byte(
    checkout: Path, before: list, after: list, end: bytes, bom: bool, cut: bool
) -> None:
    start = codecs.BOM_UTF8 if bom else b""
    lines = [*before, (CONTEXT, end), *after]
    text = b"".join(line + line_end for line, line_end in lines)
    if cut:  # no end after the last line
        text = text[: -len(lines[-1][1])]
    original = start + text
    write(checkout, original)

    assert patcher.state(checkout) == State(False)
    assert not unpatch(checkout)
    assert content(checkout) == original

    assert patch(checkout)
    patched = content(checkout)
    assert patched.startswith(start)
    bare = patched[len(start) :].splitlines()
    at = bare.index(LINE)
    assert bare[at + 1] == CONTEXT
    assert bare[:at] + bare[at + 1 :] == text.splitlines()
    # no line end that the file did not have
    ends = {x[len(x.rstrip(b"\r\n")) :] for x in patched.splitlines(keepends=True)} - {b""}
    had = {x[len(x.rstrip(b"\r\n")) :] for x in original.splitlines(keepends=True)} - {b""}
    assert ends == (had or {b"\n"})

    assert patcher.state(checkout) == State(True)
    assert not patch(checkout)
    assert content(checkout) == patched

    assert unpatch(checkout)
    assert content(checkout) == original


@given(before=blocks, after=blocks)
def test_changes_made_after_the_patch_stay(checkout: Path, before: list, after: list) -> None:
    # whatever its line end has become, and even with a second place for it
    body = [*before, (LINE, b"\r\n"), (CONTEXT, b"\n"), *after, (b"# mine", b"\n"), (CONTEXT, b"")]
    text = b"".join(line + end for line, end in body)
    write(checkout, text)
    assert unpatch(checkout)
    assert content(checkout) == text.replace(LINE + b"\r\n", b"")


REFUSED = {
    "changed": (
        b"a = 1\n" + LINE.replace(b"undo", b"how to undo") + b"\nimport config\n",
        "how to undo: topk-plugin studiogan unpatch CHECKOUT' in line 2",
    ),
    "commented out": (b"# " + LINE + b"\nimport config\n", "'# import topk_plugin"),
    "twice": (2 * (LINE + b"\n") + b"import config\n", "found it in lines 1, 2"),
    "twice, apart": (
        2 * (LINE + b"\nimport config\n"),
        "found it in lines 1, 3",
    ),
    "moved": (
        LINE + b"\nimport loader\nimport config\n",
        "directly above 'import config', found 'import loader' below it in line 2",
    ),
    "at the end": (b"import config\n" + LINE, "found it at the end"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_changed_patch_is_refused(checkout: Path, name: str) -> None:
    text, part = REFUSED[name]
    write(checkout, text)
    for act in (patch, unpatch):
        with pytest.raises(UserError) as caught:
            act(checkout)
        assert str(main_file(checkout)) in str(caught.value)
        assert f"expected '{LINE.decode()}' once" in str(caught.value)
        assert part in str(caught.value)
        assert content(checkout) == text
    assert patcher.state(checkout) == State(False, str(caught.value))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"import configs\n", "'import configs' in line 1"),
        (b"import os\n    import config\n", "'    import config' in line 2"),
        (b"import config\nx = 1\nimport config\n", "it in lines 1, 3"),
        (b"", "nothing like it"),
        (b"\xff\xfei\x00m\x00", "nothing like it"),
    ],
)
def test_another_version_of_the_file_is_refused(checkout: Path, text: bytes, found: str) -> None:
    write(checkout, text)
    with pytest.raises(UserError) as caught:
        patch(checkout)
    assert str(main_file(checkout)) in str(caught.value)
    assert f"expected 'import config' as a line exactly once, found {found};" in str(caught.value)
    assert content(checkout) == text
    assert patcher.state(checkout) == State(False, str(caught.value))
    assert not unpatch(checkout)  # there is nothing to take out


def test_permissions_and_links_stay(stand_in: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.py"
    main_file(stand_in).rename(real)
    main_file(stand_in).symlink_to(real)
    original = real.read_bytes()
    real.chmod(0o750)
    assert patch(stand_in)
    assert main_file(stand_in).is_symlink()
    assert LINE in real.read_bytes()
    assert real.stat().st_mode & 0o777 == 0o750
    assert unpatch(stand_in)
    assert main_file(stand_in).is_symlink()
    assert real.read_bytes() == original
    assert sorted(p.name for p in tmp_path.iterdir()) == ["real.py", "stand-in"]


def test_read_only_file(stand_in: Path) -> None:
    main_file(stand_in).chmod(0o444)
    original = content(stand_in)
    with pytest.raises(UserError, match=r"main.py is read-only; make the file .* writable"):
        patch(stand_in)
    assert content(stand_in) == original


def test_read_only_folder(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stand_in / "src"
    monkeypatch.setattr(os, "access", lambda path, mode: path != source)  # root may write anywhere
    with pytest.raises(UserError, match=r"main.py is read-only; make the file and its folder"):
        patch(stand_in)


@pytest.mark.parametrize("act", [patch, unpatch])
def test_killed_while_writing(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], bool]
) -> None:
    if act is unpatch:
        patch(stand_in)
    before, names = content(stand_in), sorted(main_file(stand_in).parent.iterdir())
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = multiprocessing.get_context("fork").Process(target=act, args=(stand_in,))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert content(stand_in) == before
    assert act(stand_in)
    assert sorted(main_file(stand_in).parent.iterdir()) == names


def test_no_checkout(tmp_path: Path) -> None:
    for act in (patcher.state, patch, unpatch):
        with pytest.raises(UserError, match=r"src/main.py is missing"):
            act(tmp_path)
        with pytest.raises(UserError, match=r"there is no such folder"):
            act(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not a patch\n",
        b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n context\n",
        b"--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n context\n+at the end\n",
        b"--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n+1\n a\n--- a/y\n+++ b/y\n@@ -1 +1,2 @@\n+2\n b\n",
    ],
)
def test_only_additions_above_a_line_are_read(text: bytes) -> None:
    with pytest.raises(ValueError, match="only patches that add lines"):
        read_patch(text)


def test_lines_between_two_others_are_read() -> None:
    read = read_patch(b"--- a/f\n+++ b/f\n@@ -1,2 +1,4 @@ def x\n one\n+two\n+three\n four\n")
    assert (read.file, read.before, read.added, read.after) == (
        "f",
        [b"one"],
        [b"two", b"three"],
        [b"four"],
    )


def same_as_the_usual_programs(checkout: Path) -> None:
    """Python's own way gives what git and patch give, and each undoes the others' work."""
    original = content(checkout)
    patch(checkout)
    patched = content(checkout)
    unpatch(checkout)
    tools = {
        "git": ["git", "apply", str(patch_file())],
        "patch": ["patch", "-p1", "--no-backup-if-mismatch", "-i", str(patch_file())],
    }
    # a repository around it would make `git apply` skip files that it does not hold
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(checkout.parent)}
    for program, command in tools.items():
        if shutil.which(program) is None:
            continue
        for arguments, expected in ((command, patched), ([*command, "-R"], original)):
            subprocess.run(
                arguments, cwd=checkout, env=environment, check=True, capture_output=True
            )
            assert content(checkout) == expected
        subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
        assert unpatch(checkout)
        assert content(checkout) == original


def test_same_as_the_usual_programs(stand_in: Path) -> None:
    same_as_the_usual_programs(stand_in)
    write(stand_in, b"# mine\n" * 40 + content(stand_in))
    same_as_the_usual_programs(stand_in)


@pytest.mark.studiogan
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_real_checkout(studiogan_checkout: Path, tmp_path: Path, end: bytes) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(studiogan_checkout / "src", copy / "src")
    unpatch(copy)  # the user's own may be patched
    if end == b"\n":
        same_as_the_usual_programs(copy)
    original = content(copy).replace(b"\n", end)
    write(copy, original)
    assert patch(copy)
    text = content(copy)
    assert text.count(LINE + end + CONTEXT + end) == 1
    assert len(text) == len(original) + len(LINE + end)
    compile(text, "main.py", "exec")
    assert unpatch(copy)
    assert content(copy) == original
