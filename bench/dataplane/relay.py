"""Pass bytes on between clients and a model server, unread: what any proxy in this interpreter costs at least.

    python -m bench.dataplane.relay PORT SERVER_PORT

Nothing is parsed, checked, logged, counted or queued; each client's connection has one of its own to the server.
"""

import select
import socket
import sys
from collections.abc import Callable

#: Bytes of one read, as muxd's proxy takes them between requests.
READ = 16384

#: How a readable descriptor is read, and where its bytes go.
Way = tuple[Callable[[int], bytes], Callable[[bytes], object]]


def main() -> None:
    port, server_port = map(int, sys.argv[1:])
    ready, ways, pairs = select.epoll(), dict[int, Way](), dict[int, tuple[socket.socket, socket.socket]]()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        ready.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in ready.poll():
                if (way := ways.get(fd)) is not None:
                    receive, send = way
                    if data := receive(READ):
                        send(data)
                    else:
                        _part(pairs[fd], ways, pairs)
                elif fd == listener.fileno():
                    client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", server_port))
                    for source, target in ((client, server), (server, client)):
                        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        ready.register(source, select.EPOLLIN)
                        ways[source.fileno()] = source.recv, target.sendall
                        pairs[source.fileno()] = client, server


def _part(
    pair: tuple[socket.socket, socket.socket],
    ways: dict[int, Way],
    pairs: dict[int, tuple[socket.socket, socket.socket]],
) -> None:
    """Close both connections, as one of them has ended."""
    for each in pair:
        del ways[each.fileno()], pairs[each.fileno()]
        each.close()


if __name__ == "__main__":
    main()
