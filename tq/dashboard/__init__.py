"""The dashboard: a page and ES modules that a browser runs as they are, over the public API alone.

Here they are files with a name and a tag. What serves them is the table of routes; what they show, they
ask of `/v1` like any other client.
"""
