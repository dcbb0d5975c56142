"""What becomes of a request, by its room."""

BROKEN = "The transfer broke"


def breaks(room: int) -> bool:
    """Whether prefill fails it."""
    return room % 10 == 3


def is_aborted(room: int) -> bool:
    """Whether decode aborts it."""
    return room % 10 == 7
