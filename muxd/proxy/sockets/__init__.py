"""The proxy's sockets: one epoll, a client's connection, a worker's connection; bytes and their framing."""
