"""From fragments to files: tags, names, file meta information, writing."""
