"""Speed and memory, measured on this machine beside what this machine can do at all. It starts real servers
and talks to them over sockets; it prints what it found and judges no run as failed.
"""
