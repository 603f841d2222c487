"""The version of the package, read by setup.py and by `topk-plugin doctor`."""

__version__ = "0.1.0"
