"""The data plane: one process between clients and workers.

It passes bytes on, holds leases from muxd, and knows nothing of GPUs or processes.

    reactor      an epoll of its own inside one trio task, and the deadlines
    connection   a non-blocking socket with an outbox
    listener     accepts clients
    downstream   a client's connection: reads requests, writes answers
    exchange     one request's way: admission, worker, answer, every way it can fail
    upstream     a worker's connection, and the pool of idle ones
    legacy       answers for HTTP/1.0 clients, unframed
    routes       what may be asked for, and which model a request names
    answers      the proxy's own answers, OpenAI-shaped
    leases       one lease per model: the queue before it, what is in flight behind it
    catalogue    the models muxd has, and whether muxd can be reached
    app          puts it together, and ends it
"""
