"""``python -m tq`` is ``tq``."""

from tq.cli.main import main

main()
