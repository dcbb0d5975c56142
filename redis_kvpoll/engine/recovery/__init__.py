"""Detection of lost data, and what a store keeps in order to restore its rooms after that."""
