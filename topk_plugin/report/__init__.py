"""What runs and studies look like: one self-contained HTML page, from what they left on disk."""
