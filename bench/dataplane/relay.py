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

#: How a readable descriptor is read, where its bytes go, and both connections of the client.
Way = tuple[Callable[[int], bytes], Callable[[bytes], object], tuple[socket.socket, socket.socket]]


def main() -> None:
    port, server_port = map(int, sys.argv[1:])
    ready, ways = select.epoll(), dict[int, Way]()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        ready.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in ready.poll():
                if (way := ways.get(fd)) is not None:
                    receive, send, pair = way
                    if data := receive(READ):
                        send(data)
                    else:  # one of them has ended
                        for each in pair:
                            del ways[each.fileno()]
                            each.close()
                elif fd == listener.fileno():
                    client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", server_port))
                    for source, target in ((client, server), (server, client)):
                        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        ready.register(source, select.EPOLLIN)
                        ways[source.fileno()] = source.recv, target.sendall, (client, server)


if __name__ == "__main__":
    main()
