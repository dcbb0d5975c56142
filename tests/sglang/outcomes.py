"""The planned outcome of a request, by its room."""

BROKEN = "The transfer broke"


def breaks(room: int) -> bool:
    """Return whether prefill fails it."""
    return room % 10 == 3


def is_aborted(room: int) -> bool:
    """Return whether decode aborts it."""
    return room % 10 == 7
