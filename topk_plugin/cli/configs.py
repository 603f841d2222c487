"""`topk-plugin configs`."""

import argparse

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import nonempty_path, say

HELP = "list the configs that come with the package, or copy them to change them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="such as CIFAR10/BigGAN-TopK; default: all"
    )
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        metavar="DIR",
        help="copy them there, as DIR/NAME.yaml",
    )


def run(options: argparse.Namespace) -> int:
    from topk_plugin.base.files import atomic_write
    from topk_plugin.engine.shipped_configs import config_names, configs_folder

    known = config_names()
    for name in options.names:
        if name not in known:
            raise UserError(f"no config {name!r} comes with the package; there are {known}")
    names = options.names or known
    if options.save_dir is None:
        print("\n".join(names))
        return 0
    copies = {name: options.save_dir / f"{name}.yaml" for name in names}
    for copy in copies.values():
        if copy.exists():
            raise UserError(f"{copy} is there already; give another folder to -save")
    for name, copy in copies.items():
        with atomic_write(copy) as temporary:
            temporary.write_bytes((configs_folder() / f"{name}.yaml").read_bytes())
    say(f"{len(names)} configs in {options.save_dir}")
    return 0
