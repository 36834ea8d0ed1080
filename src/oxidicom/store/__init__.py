"""Storage of received instances: reads their elements, chooses folders and names, writes files."""
