"""The cost of the table, compared with the alternatives. Run it by ``make bench`` or ``python -m bench``.

To add a measurement: write a function that returns a Section, and call it in ``bench.__main__``.
"""
