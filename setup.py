"""The metadata is in pyproject.toml; this file puts patches/ into built packages."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPatches(build_py):
    """Copies patches/ into the package, where an installed one looks for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # it finds them in the source tree
        folder = Path(self.build_lib, "topk_plugin", "studiogan", "patches")
        folder.mkdir(parents=True, exist_ok=True)
        for patch in sorted(Path("patches").glob("*.patch")):
            self.copy_file(str(patch), str(folder / patch.name))


setup(cmdclass={"build_py": BuildWithPatches})
