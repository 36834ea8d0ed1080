"""Service class user: the associations that oxidicom requests of others.

`association` is the one requestor. `find` and `count_queries` ask PACS for expected counts;
`sending` and what it uses are `oxidicom send`. Blocking sockets and threads: nothing here runs on
an event loop but the loop's side of `count_queries`.
"""
