"""A realistic study set of invented patients, and a PACS that sends it.

`python -m samples run FOLDER` builds the set, loads it into a private Orthanc, and pushes it from
there to a receiver, once by Orthanc's own C-STORE and once by C-MOVE. The package imports nothing
of oxidicom: the receiver is a process of its own, or any other on the network.
"""
