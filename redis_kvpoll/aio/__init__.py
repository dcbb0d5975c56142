"""Everything that awaits. Each file has a twin of the same name in ``sync``."""
