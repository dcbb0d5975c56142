"""Connections: from a URL or a redis-py client to a route that takes the steps of a flow."""
