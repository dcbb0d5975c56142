"""Leases: taken, renewed and released; and the end of those that have expired."""
