"""What both worlds share of connecting: URLs, connection options, the slot map, the embedded server."""
