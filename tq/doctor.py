"""What ``tq doctor`` looks at: the libraries, the machine, the settings; what is wrong and what to do.

Each check looks at one thing and changes nothing: a store that is there is only read, one that is not is
not made, and the file by which the disk is measured is gone again. The clock to measure by is handed in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

LIBRARIES: Final = ("trio", "quart", "quart-trio", "hypercorn", "msgspec", "apsw", "click", "httpx2")
WAL_RESET_FIXED: Final = (3, 51, 3)
WAL_RESET_BACKPORTS: Final = ((3, 44, 6), (3, 50, 7))
FREE_BYTES_MIN: Final = 1024**3
OPEN_FILES_MIN: Final = 1024
SYNC_SLOW_MS: Final = 20.0
SYNCS: Final = 20
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "overlay"})


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one look found. ``advice`` says what to do about a status that is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""
