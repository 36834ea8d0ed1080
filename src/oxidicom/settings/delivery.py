"""Declares the settings of CUBE's storage and of everything that is sent to CUBE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from oxidicom.settings import value_formats as formats
from oxidicom.settings.addresses import PacsAddress
from oxidicom.settings.variable import OlderName, Variable

IN_FILES_ROOT: Final = Path()
"""Placeholder for the default of the state folder: the folder `.oxidicom` in the files root."""


class DeliverySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the storage, the broker, CUBE, the PACS and NATS; `Settings` adds the others."""

    files_root: Annotated[
        Path,
        Variable(
            "OXIDICOM_FILES_ROOT",
            formats.FOLDER,
            "CUBE's storage. Instances are stored below `SERVICES/PACS` in it.",
            older=(OlderName("CHRIS_FILES_ROOT"),),
        ),
    ]
    state_dir: Annotated[
        Path,
        Variable(
            "OXIDICOM_STATE_DIR",
            formats.STATE_FOLDER,
            "Folder of the journal, the outbox and the quarantine. Must outlive the container.",
            default="folder `.oxidicom` in the files root",
        ),
    ] = IN_FILES_ROOT
    broker: Annotated[
        str | None,
        Variable(
            "OXIDICOM_CELERY_BROKER",
            formats.BROKER,
            "Broker that registrations are sent to. Without it they wait in the outbox on disk.",
            synonyms=("OXIDICOM_AMQP_ADDRESS",),
        ),
    ] = None
    broker_ca: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_BROKER_CA",
            formats.FILE,
            "Authorities to trust for TLS to the broker, CUBE and NATS, instead of the system's.",
        ),
    ] = None
    queue_name: Annotated[
        str,
        Variable("OXIDICOM_QUEUE_NAME", formats.QUEUE, "Celery queue that CUBE's worker consumes."),
    ] = "main2"
    register_gap: Annotated[
        float,
        Variable(
            "OXIDICOM_REGISTER_GAP",
            formats.DURATION,
            "The first registration in a new PACS, patient or study is sent this long before the"
            " others in it, because CUBE makes their folder only once; `0s` is no order.",
        ),
    ] = 1.0
    cube_url: Annotated[
        str | None,
        Variable(
            "CHRIS_URL",
            formats.CUBE_URL,
            "CUBE to register series with over HTTP or, beside a broker, to ask whether it shows"
            " them.",
        ),
    ] = None
    cube_username: Annotated[
        str | None, Variable("CHRIS_USERNAME", formats.USERNAME, "User of the CUBE at `CHRIS_URL`.")
    ] = None
    cube_password: Annotated[
        str | None, Variable("CHRIS_PASSWORD", formats.PASSWORD, "Password of that user.")
    ] = None
    http_register: Annotated[
        Literal["instance", "series"],
        Variable(
            "OXIDICOM_HTTP_REGISTER",
            formats.HTTP_REGISTER,
            "Register every instance at `pacsfiles/`, as the first generation did, or every "
            "complete series at `pacs/series/` (CUBE since 2024).",
        ),
    ] = "instance"
    http_attempts: Annotated[
        int,
        Variable(
            "CHRIS_HTTP_RETRIES",
            formats.ATTEMPTS,
            "Attempts in a row before a registration waits to be tried again later.",
        ),
    ] = 3
    pushers: Annotated[
        int, Variable("CHRIS_PUSHER_THREADS", formats.THREADS, "Registrations over HTTP at once.")
    ] = 4
    pacs_addresses: Annotated[
        tuple[PacsAddress, ...],
        Variable(
            "OXIDICOM_PACS_ADDRESS",
            formats.PACS_ADDRESSES,
            "PACS to ask how many instances a series has (C-FIND), by calling AE title.",
            older=(OlderName("CHRIS_PACS_ADDRESS"),),
        ),
    ] = ()
    nats_address: Annotated[
        str | None,
        Variable(
            "OXIDICOM_NATS_ADDRESS",
            formats.NATS,
            "NATS servers to publish progress to (LONK). Without it none is published.",
        ),
    ] = None
    root_subject: Annotated[
        str,
        Variable(
            "OXIDICOM_ROOT_SUBJECT",
            formats.SUBJECT,
            "First part of every NATS subject. CUBE subscribes to `oxidicom` only.",
        ),
    ] = "oxidicom"
    progress_interval: Annotated[
        float,
        Variable(
            "OXIDICOM_PROGRESS_INTERVAL",
            formats.DURATION,
            "Least time between two progress messages of one series; `0s` sends every count.",
        ),
    ] = 0.5
    done_delay: Annotated[
        float,
        Variable(
            "OXIDICOM_DONE_DELAY",
            formats.DURATION,
            "Pause from the broker's confirmation to the message that a series is done: CUBE"
            " needs it to make the series visible.",
        ),
    ] = 1.0
    dev_sleep: Annotated[
        float,
        Variable(
            "OXIDICOM_DEV_SLEEP",
            formats.DURATION,
            "Pause after each progress message, for the development of user interfaces.",
        ),
    ] = 0.0

    @property
    def registers_over_http(self) -> bool:
        """Whether series are registered with CUBE over HTTP: there is no broker (decision 40)."""
        return self.broker is None and self.cube_url is not None

    @property
    def asks_cube(self) -> bool:
        """Whether CUBE is asked if it shows a series sent through the broker (decision 40)."""
        return self.broker is not None and self.cube_url is not None
