from typing import final

@final
class FolderSync:
    """Lets threads that rename into one folder share its fsync(2) calls."""
