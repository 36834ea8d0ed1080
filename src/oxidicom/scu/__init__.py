"""Service class user (SCU): the associations that oxidicom itself requests.

`association` is the requestor that all others use. `find` and `count_queries` query PACS for
expected counts; `sending`, `send_queue` and `files` belong to `oxidicom send`. All sockets are
blocking and are used on threads without an event loop; only `CountQueries` is called on a loop.
"""
