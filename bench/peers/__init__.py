"""What people use instead, beside us: how fast, whether it is right, and what it does not give."""
