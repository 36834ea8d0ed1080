"""The DICOM upper layer and DIMSE without input and output: bytes in, records out."""
