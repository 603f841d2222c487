"""Top-k training inside PyTorch-StudioGAN, on the user's own checkout of it.

A checkout gets the adapter through one import line (``topk-plugin studiogan patch``) or for one
run only (``topk-plugin studiogan run``); none of StudioGAN's files is changed otherwise.
"""
