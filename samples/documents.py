"""Instances that are no images: a structured report, and an encapsulated PDF."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage, EncapsulatedPDFStorage

from samples.identity import Series
from samples.modules import code, instance, item, reference, sequence


def structured_report(series: Series, image: Dataset) -> Iterator[Dataset]:
    """Make a report with a finding and a measurement on `image` (PS3.3 A.35.3)."""
    made = instance(series, ComprehensiveSRStorage, 1)
    made.ReferencedPerformedProcedureStepSequence = sequence()
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PerformedProcedureCodeSequence = sequence()
    made.CurrentRequestedProcedureEvidenceSequence = sequence(
        item(
            StudyInstanceUID=image.StudyInstanceUID,
            ReferencedSeriesSequence=sequence(
                item(
                    SeriesInstanceUID=image.SeriesInstanceUID,
                    ReferencedSOPSequence=sequence(reference(image)),
                )
            ),
        )
    )
    made.ValueType = "CONTAINER"
    made.ConceptNameCodeSequence = sequence(code("18748-4", "LN", "Diagnostic imaging report"))
    made.ContinuityOfContent = "SEPARATE"
    made.ContentSequence = sequence(
        item(
            RelationshipType="CONTAINS",
            ValueType="TEXT",
            ConceptNameCodeSequence=sequence(code("121071", "DCM", "Finding")),
            TextValue="A round ellipse in the right lung. It was drawn there.",
        ),
        item(
            RelationshipType="CONTAINS",
            ValueType="NUM",
            ConceptNameCodeSequence=sequence(code("103339001", "SCT", "Long axis")),
            MeasuredValueSequence=sequence(
                item(
                    NumericValue="22",
                    MeasurementUnitsCodeSequence=sequence(code("mm", "UCUM", "millimeter")),
                )
            ),
            ContentSequence=sequence(
                item(
                    RelationshipType="INFERRED FROM",
                    ValueType="IMAGE",
                    ReferencedSOPSequence=sequence(reference(image)),
                )
            ),
        ),
    )
    yield made


def encapsulated_pdf(series: Series) -> Iterator[Dataset]:
    """Make a PDF padded to an even length; (0042,0015) holds the length of the document itself."""
    made = instance(series, EncapsulatedPDFStorage, 1)
    made.AcquisitionDateTime = ""
    made.ConversionType = "SYN"
    made.BurnedInAnnotation = "NO"
    made.RecognizableVisualFeatures = "NO"
    made.DocumentTitle = "Referral"
    made.ConceptNameCodeSequence = sequence(code("57133-1", "LN", "Referral note"))
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = pdf("Referral of nobody to anybody", "This patient is invented.")
    made.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    made.EncapsulatedDocumentLength = len(document)
    yield made


def pdf(*lines: str) -> bytes:
    """Encode one page of Helvetica with `lines`, ASCII without parentheses (ISO 32000-1, 7.5)."""
    text = "BT /F1 18 Tf 72 760 Td 24 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    made = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(made))
        made += f"{number} 0 obj\n{body}\nendobj\n".encode("ascii")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(made)}\n%%EOF\n"
    )
    return made + trailer.encode("ascii")
