"""Seconds for people."""


def in_words(seconds: float) -> str:
    """The seconds in two decimals, or less than one in milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
