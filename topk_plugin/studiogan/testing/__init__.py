"""The real StudioGAN for tests and benchmarks: as it is, or with the adapter, and watched."""
