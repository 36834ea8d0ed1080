"""The admin endpoint: health, metrics and status over HTTP, on a port of its own."""
