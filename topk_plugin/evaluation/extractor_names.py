"""The feature extractors by name; imports nothing, so that a command line can list them."""

NETWORKS = {
    "inception": "Inception",
    "imagenet": "EfficientNet-Lite0",
    "builtin": "a small classifier trained on the data set",
}
"""Extractor -> the network behind it."""

CHOICES = ("auto", *NETWORKS)
"""What ``--extractor`` takes."""
