from typing import final

@final
class FolderSync:
    """The fsync(2) calls of one folder, shared by the threads that rename into it."""
