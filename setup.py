"""The metadata is in pyproject.toml; this file puts patches/ and configs/ into built packages."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Files of the source tree -> the folder below topk_plugin/ where an installed one looks for them.
SHIPPED = {
    "patches": ("*.patch", "studiogan/patches"),
    "configs": ("*/*.yaml", "configs"),
}


class BuildWithShippedFiles(build_py):
    """Copies files that the package reads, and that stand at the top of the source tree."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # it finds them in the source tree
        for source, (pattern, target) in SHIPPED.items():
            for file in sorted(Path(source).glob(pattern)):
                copy = Path(self.build_lib, "topk_plugin", target, file.relative_to(source))
                copy.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(file), str(copy))


setup(cmdclass={"build_py": BuildWithShippedFiles})
