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

    The walk ends early, and `asleep` becomes True, at the first top-level tag beyond (0020,0013) if
    all tags have ascended and the six elements without which an instance is refused were found.
    Otherwise the walk continues to the end, so that a data set in another order is read too. The
    last value of a repeated element is used.

    `encoding` must be one of the three constants above, otherwise ValueError is raised.
    """

    def __init__(self, encoding: int) -> None: ...
    @property
    def asleep(self) -> bool:
        """Whether further bytes are ignored: the walk has ended early, failed or been finished."""

    @property
    def failed(self) -> bool:
        """Whether the data set violates PS3.5 in the part that was read, or ended too early."""

    @property
    def error(self) -> str | None:
        """Description of the error, or None. At most 40 characters, without patient data."""

    @property
    def offending(self) -> int:
        """Tag of the top-level element that contains the error, as gggg << 16 | eeee.

        It is -1 if there is no error, or if the data set ends within a top-level element header.
        """

    def feed(self, buffer: Buffer, start: int, stop: int) -> bool:
        """Take the next bytes of the data set, [start, stop) of `buffer`; return `asleep`.

        Raises ValueError if the range is not inside the buffer; an invalid data set raises nothing
        but sets `failed`. No reference to the buffer is kept.
        """

    def finish(self) -> None:
        """Note that the data set has ended; afterwards `asleep` is True.

        Sets `failed` if the data set ends within an element header, a wanted value or a sequence of
        undefined length, or within any value before the six required elements were found.
        """

    def series_values(self) -> tuple[bytes | None, ...]:
        """Return the raw values of 16 elements: those of WANTED_TAGS, in their order, except
        SOPInstanceUID and InstanceNumber.

        A value is None if the element is absent, of undefined length or incomplete, and b"" if it
        is empty. It has at most 65535 bytes; the rest is dropped.
        """

    @property
    def sop_instance_uid(self) -> bytes | None:
        """Raw value of SOPInstanceUID, in the form of `series_values`."""

    @property
    def instance_number(self) -> bytes | None:
        """Raw value of InstanceNumber, in the form of `series_values`."""

    @property
    def vrs(self) -> bytes:
        """VRs of the 18 elements of WANTED_TAGS, 2 bytes each.

        They are two letters, or two NULs if the element is absent or was sent without a VR.
        """
