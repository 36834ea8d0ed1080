"""Service class user: the associations that oxidicom requests of others.

`association` is the one requestor. `find` and `count_queries` ask PACS for expected counts;
`sending`, `send_queue` and `files` belong to `oxidicom send`. Sockets block, on threads of their
own; only `count_queries` has methods for an event loop.
"""
