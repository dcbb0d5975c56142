"""The client's side: in an engine's process, without an event loop or a Redis client."""
