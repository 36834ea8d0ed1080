"""A realistic study set of invented patients, and a PACS that sends it.

`python -m samples run FOLDER` builds it, loads it into a private Orthanc and pushes it from there
to a receiver, once by Orthanc's own C-STORE and once by a C-MOVE. Imports nothing of oxidicom: the
receiver is a process, or any other one on the network.
"""
