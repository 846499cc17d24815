"""Bytes in, bytes out: the listeners. Nothing here decides about a request."""
