"""pydicom imports it where there is one, which is a third of a receiver's start."""

raise ImportError("not among what a receiver depends on")
