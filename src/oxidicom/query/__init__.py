"""Asking a PACS: how many instances it has of a series (C-FIND), and whether it is there (C-ECHO).

pynetdicom is imported by `association` and what builds on it, so only where a PACS is asked.
"""
