"""What sync and aio share of connecting: URLs, connection options, nodes, the slot map, the embedded server."""
