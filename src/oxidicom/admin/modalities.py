"""What a Modality may say on the admin endpoint: what else a sender puts there may be a name."""

from __future__ import annotations

from typing import Final

MODALITIES: Final = frozenset(
    """
    ANN AR ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG
    EMG EOG EPS ES FA FID FS FFP FFPE GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM
    OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN
    TEXTUREMAP TG US VA VF VIDD XA XAPROTOCOL XC
    """.split()  # noqa: SIM905
)
"""Defined terms of (0008,0060), retired ones included (PS3.3 C.7.3.1.1.1)."""
