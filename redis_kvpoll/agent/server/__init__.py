"""The agent as a process: it accepts the processes of an engine, and learns how each one ends."""
