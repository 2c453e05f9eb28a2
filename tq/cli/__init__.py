"""The command line: the only place that reads flags, installs signals, and brings clock and chance in.

One module says what commands there are (`main`), the others do one each. They hand everything to the
engine and the API and refuse to know how a task is kept or run.
"""
