"""Series: which are open, when one is complete, and the journal that survives a crash."""
