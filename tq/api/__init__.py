"""The HTTP surface: what each route does, the table of routes, and the doors that serve it.

Endpoints are functions from a Request value to a Response value and know no web framework; `app` adapts
them to Quart, `serve` puts them on sockets. Nothing here decides what happens to a task.
"""
