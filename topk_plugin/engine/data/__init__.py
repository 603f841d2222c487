"""Image data sets as uint8 tensors in memory, and the endless stream of training batches."""
