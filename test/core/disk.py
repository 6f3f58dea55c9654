"""A disk that is full."""

import contextlib
import resource


@contextlib.contextmanager
def no_file_larger(size):
    """What a full disk does to large files: a write beyond that size fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
