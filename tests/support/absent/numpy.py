"""An absent numpy: pydicom imports it where it is installed, which takes a third of a receiver's
start."""

raise ImportError("not among what a receiver depends on")
