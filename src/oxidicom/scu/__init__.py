"""Service class user: what `oxidicom echo` and `oxidicom send` say to a peer, and how it went.

Blocking sockets and threads; nothing of the receiver is needed. Not pynetdicom: two threads and a
polling loop for each association send 300 instances of 20 KiB a second where this sends thousands.
"""
