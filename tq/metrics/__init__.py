"""What a server measures of itself, for Prometheus: counted as it happens, written when it is asked for.

It knows the engine and what happened, and refuses to know HTTP: it is told of requests as plain values.
"""
