"""Speaking to a tq server from Python: `tq.Client`, and `tq.AsyncClient` for trio and asyncio.

What is asked, what is made of the answers and when to repeat is decided once, without I/O, in generators
(`requests`, `retrying`, `following`); `sync` and `async_` only send, sleep and hand the replies back.
Nothing here knows of stores, engines or handlers: it knows the HTTP API, the records and the error tree.
"""
