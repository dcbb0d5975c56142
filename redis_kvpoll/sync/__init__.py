"""Everything that blocks. Each file has a twin of the same name in ``aio``."""
