"""The long-running services of a server, under one root nursery.

One noun, one module: each service is an async function whose nursery is its whole life. They know
trio, the ops and the store's contract; they know nothing of HTTP.
"""
