"""The proxy's sockets: the reactor around one epoll, connections to clients and to workers, framing of bytes."""
