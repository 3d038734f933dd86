"""The meeting of the processes of one run, before JAX starts in any.

JAX waits 300 s for one that never comes, and then aborts. So they meet earlier, at the address
where JAX will listen: the first one waits for the others, each says how many there are and which
one it is, and the connections stay, for `partners` to watch. JAX then reaches the first process
through a relay, which hides from it that the first one died: it would abort before the watch says
so.
"""

import socket
import threading
import time
from contextlib import suppress

from bnjax.app.errors import UserError, refusals

_COMING = 40  # seconds until all must have come
_HELLO = "bnjax"


def meet(address: str, count: int, process: int) -> tuple[dict[int, socket.socket], str]:
    """Wait until all processes have come.

    Args:
        address: HOST:PORT of the first one.
        count: The number of processes.
        process: The number of this one.

    Returns:
        The first process's connections to the others, or another one's to the first, by process;
        and the address at which JAX is to look for the first.

    Raises:
        UserError: The address is none, or a process has not come in time, or one too many.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator: expected HOST:PORT, got {address!r}")
    if process == 0:
        return _wait_for_others(int(port), count), address
    first = (host.strip("[]"), int(port))
    return {0: _find(first, f"{_HELLO} {count} {process}")}, _relay(first)


def _wait_for_others(port: int, count: int) -> dict[int, socket.socket]:
    links: dict[int, socket.socket] = {}
    latest = time.monotonic() + _COMING
    with refusals(f"--coordinator: cannot listen at port {port}", "name another one"):
        both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
        listener = socket.create_server(("", port), **(both if socket.has_dualstack_ipv6() else {}))
    with listener:  # closed before any goes on: JAX listens there next
        while missing := {*map(str, range(1, count))} - {*map(str, links)}:
            listener.settimeout(max(latest - time.monotonic(), 1e-3))
            try:
                link, _ = listener.accept()
            except TimeoutError:
                problem = (
                    f"process {', '.join(sorted(missing, key=int))} of {count} has not come within "
                    f"{_COMING} s; start all of them again"
                )
                for each in links.values():
                    _send(each, f"end {problem}")
                raise UserError(f"--coordinator: {problem}") from None
            hello = _read_line(link, 5).split()
            if hello[:2] == [_HELLO, str(count)] and hello[2:3] and hello[2] in missing:
                links[int(hello[2])] = link
                continue
            if len(hello) == 3:
                _send(link, f"end process {hello[2]} of {hello[1]} does not fit, or came twice")
            link.close()
    for link in links.values():
        _send(link, "here")
    return links


def _find(first: tuple[str, int], hello: str) -> socket.socket:
    """Return a connection to the first process, once all have come."""
    latest, problem = time.monotonic() + _COMING, "it does not answer"
    while time.monotonic() < latest:
        try:
            link = socket.create_connection(first, timeout=5)
        except OSError as error:
            problem = error.strerror or problem
            time.sleep(0.2)
            continue
        _send(link, hello)
        answer = _read_line(link, _COMING + 5)
        if answer == "here":
            return link
        link.close()
        if answer.startswith("end "):
            raise UserError(f"--coordinator: {answer[4:]}")
        time.sleep(0.2)
    raise UserError(
        f"--coordinator: process 0 has not come within {_COMING} s: {first[0]}, port {first[1]}: "
        f"{problem}; start all processes again"
    )


def _send(link: socket.socket, line: str) -> None:
    with suppress(OSError):
        link.sendall(f"{line}\n".encode())


def _read_line(link: socket.socket, seconds: float) -> str:
    """Read a short line, and nothing behind it; what there is where it does not end in time."""
    read = b""
    link.settimeout(seconds)
    with suppress(OSError):
        while len(read) < 1000 and (got := link.recv(1)) not in (b"", b"\n"):
            read += got
    return read.decode(errors="replace")


def _relay(first: tuple[str, int]) -> str:
    """Return an address of this process that leads to the first one."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = server.accept()
            threading.Thread(target=connect, args=[near], daemon=True).start()

    def connect(near: socket.socket) -> None:
        while True:
            try:
                far = socket.create_connection(first)
                break
            except OSError:
                time.sleep(0.05)  # JAX does not listen there yet
        threading.Thread(target=_pass_on, args=[far, near], daemon=True).start()
        _pass_on(near, far)
        with suppress(OSError):
            far.shutdown(socket.SHUT_WR)  # but never `near`: the watch speaks before JAX does

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copy what comes until it ends."""
    with suppress(OSError):
        while got := source.recv(2**16):
            target.sendall(got)
