"""Every vector of the reference over the wire: the file, the task, the progress messages.

Where docs/decisions.md differs from the reference, `amended` changes the vector and names the
decision.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support import lonk
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.data import VECTORS, Instance, vector_data_set
from tests.support.lonk import DONE, LonkSubscriber
from tests.support.raw_peer import EXPLICIT, MR_IMAGE_STORAGE, Context, RawPeer, uid
from tests.support.receiver import Receiver
from tests.support.task_queue import TaskQueue

QUEUE = "vectors"

CONTEXTS = [Context(1, MR_IMAGE_STORAGE, [EXPLICIT])]

CANNOT_UNDERSTAND = 0xC000


class Bench(NamedTuple):
    receiver: Receiver
    progress: LonkSubscriber
    queue: TaskQueue


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQ, nats_server: NatsServer
) -> Iterator[Bench]:
    receiver = Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_AMQP_ADDRESS=rabbitmq.url,
        OXIDICOM_QUEUE_NAME=QUEUE,
        OXIDICOM_NATS_ADDRESS=nats_server.address,
        OXIDICOM_PROGRESS_INTERVAL="1h",
    )
    with (
        LonkSubscriber(nats_server.url) as progress,
        receiver,
        TaskQueue(rabbitmq.url, QUEUE) as queue,
    ):
        receiver.wait_for_log("connected to NATS")
        yield Bench(receiver, progress, queue)


def amended(vector: dict[str, Any]) -> dict[str, Any]:
    """Return the vector as docs/decisions.md changes it."""
    vector = copy.deepcopy(vector)
    by_name = {each["name"]: each for each in VECTORS["vectors"]}
    expected: dict[str, Any] = vector["expected"]

    def rename(old: str, new: str) -> None:
        expected["path"] = expected["path"].replace(old, new)
        expected["celery_kwargs"]["path"] = expected["path"].rpartition("/")[0]

    match vector["name"]:
        case "StudyDate with dots (old ACR-NEMA form) rejected":  # decision 24
            vector["expected"] = expected = copy.deepcopy(by_name["all fields"]["expected"])
            rename("20240131", "2024.01.31")
        case "PatientID sent as UN in Explicit VR":  # decision 24
            vector["expected"] = expected = copy.deepcopy(by_name["all fields"]["expected"])
        case "StudyDate too short":  # decision 36
            error = "Illegal value for tag StudyDate"
            expected |= {"error": error, "lonk_payload_hex": lonk.error(error).hex()}
        case "numbers: slash in InstanceNumber":  # decision 25
            rename("/01/2-", "/01_2-")
        case "numbers: traversal in SeriesNumber":  # decision 25
            rename("../../x-", ".._.._x-")
        case "AE title dot-dot":  # decisions 25, 26
            rename("/../", "/_/")
            expected["celery_kwargs"]["pacs_name"] = "_"
        case "AE title with double underscore":  # decision 26
            expected["celery_kwargs"]["pacs_name"] = "A_B"
        case "leading backslash gives empty first value":  # decision 34
            expected["celery_kwargs"] |= {"AccessionNumber": None, "StudyDescription": None}
        case "ISO 2022 with empty first charset value":  # decision 24
            expected["celery_kwargs"]["PatientName"] = "Yamada^Tarou=山田^太郎"
            rename("P1-Yamada_Tarou_B_3ED_B_BB_O_B-", "P1-Yamada_Tarou_-")
    return vector


def with_own_title(vector: dict[str, Any], number: int) -> dict[str, Any]:
    """Replace PACS1 by a title of the vector's own: nearly all vectors are of one series, and one
    series of one PACS has one folder (decision 26)."""
    if vector["input"]["calling_ae_title"] != "PACS1":
        return vector
    renamed: dict[str, Any] = json.loads(json.dumps(vector).replace("PACS1", f"PACS1-{number}"))
    return renamed


CASES = [
    pytest.param(with_own_title(amended(vector), number), id=vector["name"])
    for number, vector in enumerate(VECTORS["vectors"])
]


@pytest.mark.parametrize("vector", CASES)
def test_vector(bench: Bench, vector: dict[str, Any]) -> None:
    receiver, progress, queue = bench
    given, expected = vector["input"], vector["expected"]
    sop_instance = given["elements"]["SOPInstanceUID"]
    data_set = vector_data_set(vector, EXPLICIT, MR_IMAGE_STORAGE)
    files = set(receiver.paths())
    with RawPeer(receiver.port) as peer:
        peer.associate(CONTEXTS, calling=given["calling_ae_title"].encode())
        response = peer.store(sop_instance, data_set, sop_class=MR_IMAGE_STORAGE)
        written = set(receiver.paths()) - files
        peer.release()
    subject = expected["lonk_subject"]
    if "error" in expected:
        assert response.status == CANNOT_UNDERSTAND
        assert written == set()
        payload = bytes.fromhex(expected["lonk_payload_hex"])
        assert payload == lonk.error(expected["error"])
        assert progress.wait_for(subject, payload) == [payload]
        assert queue.take_all() == []
    else:
        assert response.status == 0
        assert written == {expected["path"]}
        assert (receiver.root / expected["path"]).read_bytes().endswith(data_set)
        assert progress.wait_for(subject) == [lonk.count(1), lonk.count(1), DONE]
        (message,) = queue.take_all()
        assert message.kwargs == expected["celery_kwargs"]
        assert list(message.kwargs) == list(VECTORS["celery"]["body"][1]), "in CUBE's order"


def test_ages(bench: Bench) -> None:
    ages = {Instance().series: age for age in VECTORS["patient_age"]}
    instances = [
        Instance(series=series, sop_class=MR_IMAGE_STORAGE, PatientAge=age["in"])
        for series, age in ages.items()
    ]
    send(bench, [(instance, 0) for instance in instances])
    for instance in instances:
        bench.progress.wait_for(lonk.subject("RAWPEER", instance.series))
    kwargs = [message.kwargs for message in bench.queue.take_all()]
    assert {each["SeriesInstanceUID"]: each["PatientAge"] for each in kwargs} == {
        series: age["days"] for series, age in ages.items()
    }


def test_hashes_of_series(bench: Bench) -> None:
    hashes = {each["ascii"]: each["hex"][:7] for each in VECTORS["seahash"] if uid_like(each)}
    assert "a88d034" in hashes.values(), "one whose hash begins by zero"
    instances = [Instance(series=series, sop_class=MR_IMAGE_STORAGE) for series in hashes]
    send(bench, [(instance, 0) for instance in instances])
    for instance in instances:
        folder = bench.receiver.path_of(instance.sop_instance).parent.name
        assert folder == f"00003-Lung-{hashes[instance.series]}"
        bench.progress.wait_for(lonk.subject("RAWPEER", instance.series))
    bench.queue.take_all()


def uid_like(each: dict[str, str]) -> bool:
    text = each.get("ascii", "")
    return bool(text) and set(text) <= set("0123456789.")


def test_task_message_is_as_celery_writes_it(bench: Bench) -> None:
    instance = Instance(sop_class=MR_IMAGE_STORAGE, PatientName="Secret^Name")
    send(bench, [(instance, 0)])
    bench.progress.wait_for(lonk.subject("RAWPEER", instance.series))
    (message,) = bench.queue.take_all()
    example = VECTORS["celery"]
    args, kwargs, embed = message.body
    assert args == []
    assert embed == example["body"][2]
    assert set(kwargs) == set(example["body"][1])
    headers = message.headers
    assert headers["task"] == example["task"]
    assert headers["lang"] == "py"
    assert headers["id"] == headers["root_id"] == message.properties["correlation_id"]
    assert headers["retries"] == 0
    assert headers["timelimit"] == [None, None]
    for name in ("parent_id", "group", "shadow", "eta", "expires"):
        assert headers[name] is None
    assert headers["origin"].startswith("gen")
    assert headers["argsrepr"] == "()"
    assert instance.series in headers["kwargsrepr"]
    assert "Secret" not in headers["kwargsrepr"]
    assert message.properties["content_type"] == "application/json"
    assert message.properties["content_encoding"] == "utf-8"
    assert message.properties["delivery_mode"] == 2
    assert message.properties["priority"] == 0
    assert message.properties["exchange"] == ""
    assert message.properties["routing_key"] == QUEUE
    bench.queue.declare_as_celery_does()


def test_store_response_is_the_references_octet_for_octet(bench: Bench) -> None:
    example = VECTORS["wire"]["c_store_rsp_dataset_hex"]
    instance = Instance(
        sop_class=example["affected_sop_class"], sop_instance=example["affected_sop_instance"]
    )
    with RawPeer(bench.receiver.port) as peer:
        peer.associate(CONTEXTS)
        response = peer.store(
            instance.sop_instance,
            instance.encode(EXPLICIT),
            sop_class=instance.sop_class,
            message_id=example["message_id"],
        )
        peer.release()
    encoded = b"".join(
        b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
        for number, value in response.elements.items()
    )
    assert encoded.hex() == example["hex"]
    assert uid(instance.sop_instance) == response.elements[0x1000]
    bench.progress.wait_for(lonk.subject("RAWPEER", instance.series))
    bench.queue.take_all()


# ---- sequences ---------------------------------------------------------------------------------


def send(bench: Bench, instances: list[tuple[Instance, int]]) -> None:
    """Send instances in one association, each with its expected status."""
    with RawPeer(bench.receiver.port) as peer:
        peer.associate(CONTEXTS)
        for message_id, (instance, status) in enumerate(instances, 1):
            response = peer.store(
                instance.sop_instance,
                instance.encode(EXPLICIT),
                sop_class=MR_IMAGE_STORAGE,
                message_id=message_id,
            )
            assert response.status == status
        peer.release()


def series_of(count: int) -> list[Instance]:
    series = Instance().series
    return [
        Instance(series=series, sop_class=MR_IMAGE_STORAGE, number=number)
        for number in range(1, count + 1)
    ]


def sequence(name: str) -> tuple[dict[str, Any], list[bytes]]:
    (found,) = (each for each in VECTORS["sequences"] if each["name"] == name)
    return found, [bytes.fromhex(payload) for payload in found.get("lonk", [])]


def registered(bench: Bench) -> list[int]:
    return [message.kwargs["ndicom"] for message in bench.queue.take_all()]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("one instance", 1),
        ("two instances, any speed", 2),
        ("five instances within one interval", 5),
    ],
)
def test_sequence(bench: Bench, name: str, count: int) -> None:
    expected, payloads = sequence(name)
    instances = series_of(count)
    send(bench, [(instance, 0) for instance in instances])
    subject = lonk.subject("RAWPEER", instances[0].series)
    assert bench.progress.wait_for(subject) == payloads
    assert registered(bench) == expected["celery_ndicom"]


def test_sequence_without_rate_limit(
    tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer
) -> None:
    _, payloads = sequence("interval 0s, three instances")
    instances = series_of(3)
    with (
        LonkSubscriber(nats_server.url) as progress,
        Receiver(
            tmp_path_factory.mktemp("files"),
            OXIDICOM_NATS_ADDRESS=nats_server.url,
            OXIDICOM_PROGRESS_INTERVAL="0s",
            OXIDICOM_ROOT_SUBJECT="unlimited",
        ) as receiver,
        RawPeer(receiver.port) as peer,
    ):
        receiver.wait_for_log("connected to NATS")  # until then the newest count waits
        peer.associate(CONTEXTS)
        for instance in instances:
            peer.store(instance.sop_instance, instance.encode(EXPLICIT), sop_class=MR_IMAGE_STORAGE)
        peer.release()
        subject = lonk.subject("RAWPEER", instances[0].series, root="unlimited")
        # No broker confirms, so done waits for its 2 s (decision 36).
        assert progress.wait_for(subject) == payloads
        (entry,) = receiver.outbox()
        assert entry["ndicom"] == 3


def test_the_same_instance_twice_counts_once(bench: Bench) -> None:
    (instance,) = series_of(1)
    send(bench, [(instance, 0), (instance, 0)])
    payloads = bench.progress.wait_for(lonk.subject("RAWPEER", instance.series))
    assert payloads == [lonk.count(1), lonk.count(1), DONE]  # decision 29
    assert registered(bench) == [1]


def test_an_instance_without_study_date_does_not_affect_the_others(bench: Bench) -> None:
    expected, _ = sequence("three instances, second lacks StudyDate")
    first, second, third = series_of(3)
    second.values["StudyDate"] = None
    send(bench, [(first, 0), (second, CANNOT_UNDERSTAND), (third, 0)])
    payloads = bench.progress.wait_for(lonk.subject("RAWPEER", first.series))
    final = [bytes.fromhex(payload) for payload in expected["lonk_final"]]
    assert payloads[-2:] == final
    assert sorted(payloads[:-2]) == sorted(
        bytes.fromhex(payload) for payload in expected["lonk_any_order_before_final"]
    )
    assert registered(bench) == expected["celery_ndicom"]


def test_a_series_without_instances_is_not_registered(bench: Bench) -> None:
    (instance,) = series_of(1)
    instance.values["PatientID"] = None
    (other,) = series_of(1)
    send(bench, [(instance, CANNOT_UNDERSTAND), (other, 0)])
    bench.progress.wait_for(lonk.subject("RAWPEER", other.series))
    assert registered(bench) == [1], "only the other one (decision 30)"
    error = lonk.error("DICOM file does not have the required tag: PatientID")
    assert bench.progress.payloads(lonk.subject("RAWPEER", instance.series)) == [error]
