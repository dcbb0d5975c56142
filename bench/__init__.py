"""What the table costs, beside what people would otherwise use. Run it by ``make bench``, or ``python -m bench``."""
