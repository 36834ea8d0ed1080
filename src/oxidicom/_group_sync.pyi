from typing import final

@final
class FolderSync:
    """One fsync(2) of a folder for all threads that have renamed into it by then."""
