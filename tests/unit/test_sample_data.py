"""The study set is the same in every build, readable by others, and consistent."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from samples import folder as sample_folder
from samples.documents import pdf
from samples.folder import BuiltSeries, FolderError, build, read_manifest
from samples.study_set import CT, FULL, SLIDE, SMALL, US
from samples.tomography import ct
from samples.ultrasound import ultrasound

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

SERIES = {
    "Lung 1.0 B30f": ("CT", "CT Image Storage", EXPLICIT, 24),
    "Report": ("SR", "Comprehensive SR Storage", EXPLICIT, 1),
    "Structures": ("RTSTRUCT", "RT Structure Set Storage", EXPLICIT, 1),
    "Plan": ("RTPLAN", "RT Plan Storage", IMPLICIT, 1),
    "Dose": ("RTDOSE", "RT Dose Storage", EXPLICIT, 1),
    "t1_se_tra": ("MR", "MR Image Storage", EXPLICIT, 6),
    "t2_tse_tra": ("MR", "MR Image Storage", IMPLICIT, 6),
    "ep2d_diff b1000": ("MR", "MR Image Storage", RLE, 6),
    "t1_mprage 3D": ("MR", "Enhanced MR Image Storage", EXPLICIT, 1),
    "Referral": ("DOC", "Encapsulated PDF Storage", EXPLICIT, 1),
    "Apical, 4 chambers": ("US", "Ultrasound Multi-frame Image Storage", JPEG_BASELINE, 4),
    "Whole slide 20x": ("SM", "VL Whole Slide Microscopy Image Storage", EXPLICIT, 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    for _ in build(folder, SMALL):
        pass
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> list[BuiltSeries]:
    return read_manifest(folder)


@pytest.fixture(scope="module")
def data_sets(folder: Path, built: list[BuiltSeries]) -> dict[str, list[Dataset]]:
    """Return data sets by the description of their series."""
    return {
        series.description: [pydicom.dcmread(folder / one.path) for one in series.instances]
        for series in built
    }


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_another_build_has_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    list(build(tmp_path, SMALL))
    first, second = files(folder), files(tmp_path)
    assert len(first) == 53 + 1
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_the_set_matches_its_manifest(
    built: list[BuiltSeries], data_sets: dict[str, list[Dataset]]
) -> None:
    assert [one.description for one in built] == list(SERIES)
    for series in built:
        modality, sop_class, transfer_syntax, instances = SERIES[series.description]
        first = data_sets[series.description][0]
        assert series.modality == first.Modality == modality
        assert first.SOPClassUID.name == sop_class
        assert series.transfer_syntax_uid == transfer_syntax
        assert len(series.instances) == instances
        for one in data_sets[series.description]:
            assert one.file_meta.TransferSyntaxUID == transfer_syntax
            assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_every_file_is_read_strictly(
    folder: Path, built: list[BuiltSeries], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for series in built:
        for instance in series.instances:
            assert len(str(pydicom.dcmread(folder / instance.path))) > 1000


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="DCMTK is not installed")
def test_dcmtk_reads_every_file(folder: Path) -> None:
    paths = sorted(str(path) for path in folder.rglob("*.dcm"))
    done = subprocess.run(["dcmdump", *paths], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert re.findall(rb"^[EWF]: .*", done.stdout + done.stderr, re.MULTILINE) == []
    assert done.stdout.count(b"# Dicom-File-Format") == len(paths)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_every_series_keeps_to_its_object_definition(
    folder: Path, built: list[BuiltSeries]
) -> None:
    for series in built:
        for instance in (series.instances[0], series.instances[-1]):
            done = subprocess.run(
                ["dciodvfy", "-new", folder / instance.path], capture_output=True, timeout=60
            )
            said = done.stdout + done.stderr
            assert re.findall(rb"^Error.*", said, re.MULTILINE) == [], series.description


def test_uids_are_below_2_25_and_no_two_instances_share_one(
    built: list[BuiltSeries], data_sets: dict[str, list[Dataset]]
) -> None:
    instances = [one for several in data_sets.values() for one in several]
    assert len({one.SOPInstanceUID for one in instances}) == len(instances) == 53
    assert len({series.series_instance_uid for series in built}) == len(built)
    assert len({series.study_instance_uid for series in built}) == 4
    for one in instances:
        for identifier in (one.SOPInstanceUID, one.SeriesInstanceUID, one.StudyInstanceUID):
            assert UID(identifier).is_valid
            assert identifier.startswith("2.25.")


def test_patients_are_marked_as_invented_and_ages_are_consistent(
    data_sets: dict[str, list[Dataset]],
) -> None:
    seen = set()
    for several in data_sets.values():
        for one in several:
            born, day = (date.fromisoformat(text) for text in (one.PatientBirthDate, one.StudyDate))
            had_birthday = (day.month, day.day) >= (born.month, born.day)
            assert int(one.PatientAge[:-1]) == day.year - born.year - (not had_birthday)
            assert 1 <= len(one.AccessionNumber) <= 16
            seen.add((one.PatientID, str(one.PatientName)))
    assert {patient for patient, _ in seen} == {f"SAMPLE-000{n}" for n in (1, 2, 3, 4)}
    assert len(seen) == 4


def test_the_japanese_name_is_written_in_iso_2022(folder: Path, built: list[BuiltSeries]) -> None:
    """The bytes are those of PS3.5 H.3.1."""
    (series,) = (one for one in built if one.modality == "US")
    data = (folder / series.instances[0].path).read_bytes()
    assert b"\x08\0\x05\0CS\x10\0\\ISO 2022 IR 87 " in data
    assert (
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
        in data
    )


def test_native_pixels_are_as_many_as_they_should_be(data_sets: dict[str, list[Dataset]]) -> None:
    native = 0
    for several in data_sets.values():
        for one in several:
            if "PixelData" in one and not one.file_meta.TransferSyntaxUID.is_encapsulated:
                frames = int(one.get("NumberOfFrames", 1))
                bytes_a_pixel = one.SamplesPerPixel * one.BitsAllocated // 8
                assert len(one.PixelData) == one.Rows * one.Columns * frames * bytes_a_pixel
                native += 1
    assert native == 24 + 1 + 6 + 6 + 1 + 1


def test_run_lengths_decode_to_a_head(data_sets: dict[str, list[Dataset]]) -> None:
    for one in data_sets["ep2d_diff b1000"]:
        picture = one.pixel_array
        assert picture.shape == (64, 64)
        assert picture[32, 32] > 300 > picture[0, 0]


def test_ultrasound_is_jpeg_baseline(data_sets: dict[str, list[Dataset]]) -> None:
    clip, *stills = data_sets["Apical, 4 chambers"]
    assert [int(one.get("NumberOfFrames", 1)) for one in (clip, *stills)] == [4, 1, 1, 1]
    for one in (clip, *stills):
        number = int(one.get("NumberOfFrames", 1))
        frames = list(generate_frames(one.PixelData, number_of_frames=number))
        assert len(frames) == number
        for frame in frames:
            assert frame.startswith(b"\xff\xd8")
            assert frame.rstrip(b"\0").endswith(b"\xff\xd9")
            start = frame.index(b"\xff\xc0")  # SOF0: baseline (ITU T.81 B.1.1.3)
            height, width = frame[start + 5 : start + 7], frame[start + 7 : start + 9]
            assert int.from_bytes(height) == one.Rows
            assert int.from_bytes(width) == one.Columns


def test_references_lead_to_instances_of_the_set(data_sets: dict[str, list[Dataset]]) -> None:
    images = {one.SOPInstanceUID for one in data_sets["Lung 1.0 B30f"]}
    (structures,), (plan,) = data_sets["Structures"], data_sets["Plan"]
    (dose,), (report,) = data_sets["Dose"], data_sets["Report"]
    contours = [contour for roi in structures.ROIContourSequence for contour in roi.ContourSequence]
    drawn_on = {one.ContourImageSequence[0].ReferencedSOPInstanceUID for one in contours}
    assert drawn_on == images
    assert [roi.ROIName for roi in structures.StructureSetROISequence][:1] == ["BODY"]
    assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == (
        structures.SOPInstanceUID
    )
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in images
    frames = {one.FrameOfReferenceUID for one in (structures, plan, dose)}
    assert frames == {one.FrameOfReferenceUID for one in data_sets["Lung 1.0 B30f"]}


def test_the_pdf_is_found_by_its_own_table(data_sets: dict[str, list[Dataset]]) -> None:
    (one,) = data_sets["Referral"]
    document = one.EncapsulatedDocument[: one.EncapsulatedDocumentLength]
    assert document == pdf("Referral of nobody to anybody", "This patient is invented.")
    assert document.startswith(b"%PDF-1.4\n")
    assert document.endswith(b"%%EOF\n")
    (start,) = re.findall(rb"startxref\n(\d+)\n", document)
    table = document[int(start) :]
    assert table.startswith(b"xref\n0 6\n")
    offsets = [int(found) for found in re.findall(rb"(\d{10}) 00000 n ", table)]
    assert len(offsets) == 5
    for number, offset in enumerate(offsets, 1):
        assert document[offset:].startswith(b"%d 0 obj\n" % number)
    ((length, stream),) = re.findall(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", document)
    assert len(stream) == int(length)


def test_the_full_form_is_of_realistic_size() -> None:
    assert (FULL.ct_slices, FULL.ct_side) == (300, 512)
    first = next(ct(CT, FULL.ct_slices, FULL.ct_side))
    assert len(first.PixelData) == 512 * 512 * 2
    assert next(ultrasound(US, FULL.us_frames)).NumberOfFrames == 30
    assert (FULL.tiles * FULL.tile_side) ** 2 * 3 == 201_326_592
    assert SLIDE.modality == "SM"


# ---- the folder --------------------------------------------------------------------------------


def test_a_foreign_folder_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "thesis").write_text("years of work")
    with pytest.raises(FolderError, match="name an empty folder"):
        next(build(tmp_path, SMALL))
    assert (tmp_path / "studies" / "thesis").read_text() == "years of work"


def test_a_folder_without_studies_has_nothing_to_push(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="first python -m samples build"):
        read_manifest(tmp_path)


def test_an_interrupted_build_counts_as_incomplete(tmp_path: Path) -> None:
    building = build(tmp_path, SMALL)
    assert next(building).modality == "CT"
    building.close()
    with pytest.raises(FolderError):
        read_manifest(tmp_path)
    list(build(tmp_path, SMALL))  # and it is still ours to build in
    assert len(read_manifest(tmp_path)) == 12


def test_a_build_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    list(build(tmp_path, SMALL))
    stale = tmp_path / sample_folder.STUDIES / "SAMPLE-0001" / "chest" / "01-CT" / "0301.dcm"
    stale.write_bytes(b"of a larger build")
    list(build(tmp_path, SMALL))
    assert not stale.exists()
