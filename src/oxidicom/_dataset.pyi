from typing import Final, final

from typing_extensions import Buffer

IMPLICIT_LE: Final = 0
EXPLICIT_LE: Final = 1
EXPLICIT_BE: Final = 2

WANTED_TAGS: Final[tuple[int, ...]]
"""The 18 top-level elements kept, ascending, each as gggg << 16 | eeee."""

@final
class Walker:
    """Reads one data set as it arrives, as far as the wanted elements (PS3.5 7.1).

    It falls asleep at the first top-level tag beyond (0020,0013) if all tags ascended so far and
    the six elements without which an instance is refused were seen; otherwise it reads on to the
    end, so that a disordered data set is read too (a repeated element counts with its last value).

    `encoding` is one of the three constants above; anything else is a ValueError.
    """

    def __init__(self, encoding: int) -> None: ...
    @property
    def asleep(self) -> bool:
        """Nothing more is wanted: done, failed or finished."""

    @property
    def failed(self) -> bool:
        """The data set breaks PS3.5's grammar before the needed elements were read."""

    @property
    def error(self) -> str | None:
        """What is wrong with the data set: at most 40 characters, none of them from it."""

    @property
    def offending(self) -> int:
        """Tag of the top-level element in which it went wrong, -1 where there is none."""

    def feed(self, buffer: Buffer, start: int, stop: int) -> bool:
        """Take bytes [start, stop) of `buffer`, the next of the data set; True once asleep.

        Never raises for what the data set holds; ValueError where the range is not the buffer's.
        The buffer is not kept.
        """

    def finish(self) -> None:
        """The data set has ended. `failed` if it ends within an element header, a wanted value
        or a sequence of undefined length, or within any value while a needed element lacks."""

    def series_values(self) -> tuple[bytes | None, ...]:
        """16 raw values in the order of WANTED_TAGS, without SOPInstanceUID and InstanceNumber;
        None where absent or of undefined length, b"" where empty. At most 65535 bytes each."""

    @property
    def sop_instance_uid(self) -> bytes | None: ...
    @property
    def instance_number(self) -> bytes | None: ...
    @property
    def vrs(self) -> bytes:
        """36 bytes: the VR of each element of WANTED_TAGS as sent, two letters or two NULs."""

    @property
    def truncated(self) -> tuple[int, ...]:
        """Tags of wanted values that were longer than is kept."""
