"""The DICOM upper layer and DIMSE without input and output: it turns received bytes into events."""
