"""Triton kernels. Nothing imports these files where triton is not installed."""
