"""The rules of tq as values in, values out.

This package decides: which state follows which, what an outcome leads to, how long a retry waits.
It refuses to know trio, clocks, databases and HTTP; it imports the standard library and msgspec only.
"""
