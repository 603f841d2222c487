"""One seed a run, one random stream a purpose."""

import hashlib


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of 63 bits for ``purpose``.

    A hash and not ``seed + 1``: the stream of one purpose in a run must not be that of another
    purpose in the run with the next seed.
    """
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
