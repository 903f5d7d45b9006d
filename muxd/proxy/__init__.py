"""The data plane: one process between clients and workers.

It passes bytes on, holds leases from muxd, and knows nothing of GPUs or processes.

    sockets/     the epoll loop, a client's connection, a worker's connection, framing
    dispatcher   where every request comes first: answered here, refused, or sent on its way
    auth/        who may ask: API keys, rates, whether anybody may
    requests/    what is asked for: routes, the model that a body names, edits of a body
    proxied_request  one request's way: admission, worker, answer, replay, every way it can fail
    preload, reading   requests that only want a model awake, or only read of an awake one
    leases       one lease per model; queue: who waits for it; grant: the right to send; refusals: who does not get it
    catalogue    the models muxd has, and whether muxd can be reached
    forwarding   the request head that a worker gets
    peers        whom a client's address counts for
    answers      the proxy's own errors;  errand: its own answers that take a moment
    telemetry/   what is told of each request: metrics, access log, ids, tokens
    app          puts it together, and ends it
"""
