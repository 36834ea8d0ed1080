from typing import Final, final

from typing_extensions import Buffer

IMPLICIT_LE: Final = 0
EXPLICIT_LE: Final = 1
EXPLICIT_BE: Final = 2

WANTED_TAGS: Final[tuple[int, ...]]
"""Tags of the 18 top-level elements that are kept, ascending, each as gggg << 16 | eeee."""

@final
class Walker:
    """Reads a data set incrementally, as far as its wanted elements (PS3.5 7.1).

    The walk falls asleep at the first top-level tag beyond (0020,0013) if all tags have ascended
    and the six elements without which an instance is refused were found. Otherwise it continues to
    the end, so that a data set in another order is read too; of a repeated element the last value
    counts.

    `encoding` is one of the three constants above; raises ValueError for anything else.
    """

    def __init__(self, encoding: int) -> None: ...
    @property
    def asleep(self) -> bool:
        """Whether no more bytes are needed: the walk is done, has failed or was finished."""

    @property
    def failed(self) -> bool:
        """Whether the data set violates PS3.5 in the part that was read, or ended too early."""

    @property
    def error(self) -> str | None:
        """What is wrong with the data set, in at most 40 characters and without data from it."""

    @property
    def offending(self) -> int:
        """Tag of the top-level element in which the error is; -1 where there is none."""

    def feed(self, buffer: Buffer, start: int, stop: int) -> bool:
        """Take bytes [start, stop) of `buffer`, the next of the data set; return `asleep`.

        Raises nothing for the contents of the data set; ValueError where the range is not in the
        buffer. The buffer is not kept.
        """

    def finish(self) -> None:
        """Note that the data set has ended; afterwards `asleep` is True.

        Sets `failed` if it ends within an element header, a wanted value or a sequence of undefined
        length, or within any value before the needed elements were found.
        """

    def series_values(self) -> tuple[bytes | None, ...]:
        """Return 16 raw values in the order of WANTED_TAGS, without SOPInstanceUID and
        InstanceNumber.

        A value is None where absent or of undefined length, b"" where empty. It has at most 65535
        bytes; the rest is dropped.
        """

    @property
    def sop_instance_uid(self) -> bytes | None:
        """Raw value, as in `series_values`."""

    @property
    def instance_number(self) -> bytes | None:
        """Raw value, as in `series_values`."""

    @property
    def vrs(self) -> bytes:
        """The VR of each element of WANTED_TAGS as sent: 18 times two letters or two NULs."""
