"""The data plane: one process between clients and workers.

The proxy passes bytes on, holds leases from muxd, and knows nothing of GPUs or processes.

    sockets/           the epoll loop, a client's connection, a worker's connection, framing
    dispatcher         where every request comes first: answered here, refused, or sent on its way
    auth/              who may send requests: API keys, rate limits, hosts, origins
    requests/          what a request asks for: its route, its model, the edits of its body
    unpacking          decompresses a request's body, a slice at a time
    proxied_request    one request's way: admission, worker, response, replay, every way in which it can fail
    embedding          requests for embeddings in Ollama's words: the worker's response is gathered and translated
    preload            requests that only want a model awake
    unleased_request   requests that only read from an awake worker, without a lease
    leases             one lease per model
    queue              the requests that wait for a lease
    grant              the right to send requests to a worker
    refusals           the errors for requests that get no worker, or lose it
    catalogue          the models that muxd has, and whether muxd can be reached
    forwarding         the request head that a worker gets
    peers              the peer that a client's address counts for
    answers            the proxy's own errors
    deferred_response  the proxy's own responses that take a moment
    telemetry/         metrics, access log, request ids, token counts
    app                builds the proxy, runs it and ends it
"""
