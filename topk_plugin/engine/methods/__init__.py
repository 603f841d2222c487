"""Training methods: one file each, and one line of the registry."""
