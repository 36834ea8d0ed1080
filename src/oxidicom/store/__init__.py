"""Storage of received instances: tags, names, file meta information, folders, writing."""
