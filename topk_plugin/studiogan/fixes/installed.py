"""Versions of packages, without importing them."""

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version


def at_least(package: str, oldest: str) -> bool:
    """Whether ``package`` is installed in version ``oldest`` or a later one."""
    try:
        return Version(version(package)) >= Version(oldest)
    except PackageNotFoundError:
        return False
