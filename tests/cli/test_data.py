"""`topk-plugin data`: what a set holds, and its HDF5 file."""

import json
from pathlib import Path

from tests.cli.helpers import Program


def test_info_counts_and_gives_the_config(program: Program) -> None:
    done = program("data", "info", program.data, "--img_size", 16)
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["images"] == sum(facts["classes"].values()) == 40
    assert facts["bytes_in_memory"] == 40 * 3 * 16 * 16
    assert facts["config"]["DATA"] == {
        "name": "data",
        "img_size": 16,
        "num_classes": len(facts["classes"]),
        "img_channels": 3,
    }


def test_to_hdf5_trains_on_the_same_images(program: Program, tmp_path: Path) -> None:
    done = program("data", "to-hdf5", program.data, "-save", tmp_path / "d.hdf5", "--stream")
    assert done.status == 0, done.err
    fingerprints = {
        json.loads(program("data", "info", path).out)["fingerprint"]
        for path in (program.data, tmp_path / "d.hdf5")
    }
    assert len(fingerprints) == 1
    again = program("data", "to-hdf5", program.data, "-save", tmp_path / "d.hdf5")
    assert (again.status, "there already" in again.err) == (2, True)
    wrong = program("data", "to-hdf5", program.data, "-save", tmp_path / "d.npz")
    assert (wrong.status, "end it in .hdf5" in wrong.err) == (2, True)
    named = program("data", "info", "Digits", "--img_size", 8)
    assert json.loads(named.out)["images"] == 1797
