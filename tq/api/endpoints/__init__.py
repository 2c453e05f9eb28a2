"""What each route does, by resource: plain async functions from a Request to a Response.

They ask the `Server` and put its answers into words. They refuse to know Quart, sockets and stores.
"""
