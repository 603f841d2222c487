"""Errors to sentences for a user."""

from topk_plugin.base.errors import UserError


def sentence_of(error: BaseException) -> str | None:
    """What a user is told of an error; None for a fault of the program, whose place matters."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path, its permissions and space"
    if isinstance(error, MemoryError):
        return (
            "out of memory; lower OPTIMIZATION.batch_size or --num_samples, or leave the images "
            "on the disk with --stream"
        )
    # torch's signal handler raises it wherever the main thread is when a worker dies
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that reads the images has died (killed, most likely for its memory); go on "
            "with -ckpt auto, and with fewer --num_workers or none (0)"
        )
    # torch's CPU allocator has no exception of its own
    if type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    ):
        return (
            "out of memory; lower OPTIMIZATION.batch_size (and raise acml_steps to keep the "
            "effective batch), --num_samples, or the widths in section MODEL"
        )
    return None
