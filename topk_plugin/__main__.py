"""`python -m topk_plugin` is the program `topk-plugin`."""

import sys

from topk_plugin.cli.main import main

sys.exit(main())
