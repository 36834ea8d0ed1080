"""Which series are in reception, when one is complete, and what of that outlives a crash."""
