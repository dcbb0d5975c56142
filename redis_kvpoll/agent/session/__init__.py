"""What an agent does for one process: it publishes its changes, holds its lease, and tells it of failures."""
