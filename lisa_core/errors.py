"""What can go wrong in `lisa_core`: every error names the cause and the remedy in one sentence."""


class LisaError(Exception):
    """Base of every error that `lisa_core` raises on purpose; anything else that escapes is a bug."""


class CheckpointError(LisaError):
    """The checkpoint cannot be loaded as asked: missing, damaged, of another layout, or not at that precision."""


class ImageError(LisaError):
    """The image is not (H, W, 3) uint8, or has a size that cannot be segmented."""


class DatasetError(LisaError):
    """A data set, or a file of it, cannot be used: not there, empty, damaged or incomplete."""


class PromptError(LisaError):
    """The instruction or history cannot be asked: empty, too long for the context, or not text."""


class OutOfMemoryError(LisaError):
    """The device ran out of memory; what the question had allocated has been released."""


class Cancelled(LisaError):
    """The caller cancelled the question."""
