"""Memory of freed tensors stays with the process."""

import subprocess
import sys

import pytest

# Page faults of ten tensors of 64 MB, one after the other; 4 kB a page.
PROGRAM = """
import resource, sys, torch
from topk_plugin.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_large_tensors_cause_hardly_any_page_faults_after_the_first_ones() -> None:
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", PROGRAM, mode], text=True))
        for mode in ("default", "kept")
    }
    assert faults["kept"] * 2 < faults["default"]


def test_elsewhere_there_is_nothing_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from topk_plugin.engine.allocator import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
