"""What may be on a disk after the power fails, by the log of a run's calls.

The model is what POSIX promises: a file's content is on the disk once it was fsynced after its last
write; of the changes to a folder's names (rename, link, unlink) those before the folder's last
fsync are there, and of the later ones any of those that were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

# of names changed since the folder was synced; a run makes at most four at a time
MOST_PENDING = 12


@dataclass
class _Disk:
    """A folder.

    Attributes:
        names: name -> file, as a process sees it.
        safe_names: the same, as far as it is certainly on the disk.
        pending: changes since then: (name, file or None).
        whole: files whose content is on the disk.
    """

    names: dict[str, int] = field(default_factory=dict)
    safe_names: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[str, int | None]] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)

    def change(self, name: str, file: int | None) -> None:
        if file is None:
            self.names.pop(name, None)
        else:
            self.names[name] = file
        self.pending.append((name, file))

    def states(self) -> list[dict[str, int]]:
        """Names -> files after a power cut now, every possibility."""
        pending = self.pending[-MOST_PENDING:]
        found = []
        for count in range(len(pending) + 1):
            for kept in combinations(pending, count):
                names: dict[str, int | None] = {**self.safe_names, **dict(kept)}
                found.append({name: file for name, file in names.items() if file is not None})
        return found


def worst_states(log: str, folder: Path, names: Sequence[str]) -> tuple[int, int, list[str]]:
    """Whether one of ``names`` is always a whole file, from when the first of them was synced.

    Args:
        log: of the calls of a run, as the library writes it.
        folder: whose names are looked at.
        names: the first that is there must be whole, or else the next.

    Returns:
        Moments, states looked at, and a sentence for each state in which none is whole.
    """
    disk, moments, states, broken = _Disk(), 0, 0, []
    written: dict[int, bool] = {}
    there = False
    for number, line in enumerate(log.splitlines()):
        call, inode, path, other = line.split("\t")
        file, place = int(inode), Path(path)
        if call == "fsync" and place == folder:
            disk.safe_names, disk.pending = dict(disk.names), []
            there = there or any(disk.names.get(n) in disk.whole for n in names)
        elif place.parent != folder:
            continue
        elif call == "open":
            disk.change(place.name, file) if file else None
        elif call == "write":
            written[file] = True
            disk.whole.discard(file)
        elif call == "fsync":
            disk.whole.add(file)
        elif call == "rename":
            disk.change(Path(other).name, file)
            disk.change(place.name, None)
        elif call == "link":
            disk.change(Path(other).name, file)
        elif call == "unlink" and place.name in disk.names:
            disk.change(place.name, None)
        moments += 1
        for state in disk.states():
            states += 1
            present = [state[name] for name in names if name in state]
            torn = [file for file in present if file not in disk.whole]
            if torn or (there and not present):
                broken.append(f"{folder.name}, call {number} ({line}): {state}")
    return moments, states, broken
