"""Decides which series are open and when one is complete; keeps a journal that survives crashes."""
