"""llama.cpp's own server, as `llama-server` is started: `llama_server.py --model FILE --port N`.

Runs in the environment that install.py makes: the package xllamacpp has llama.cpp's server as a library, and no program
that starts it.  One request at a time, without a prompt cache: what a model says depends on nothing else.
"""

import argparse
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", required=True, help="the name that the server gives its model")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = args.model, {args.alias}
    params.hostnames, params.port, params.n_threads_http = ["127.0.0.1"], args.port, 8
    params.n_ctx, params.n_parallel, params.cache_prompt, params.cache_ram_mib = 2048, 1, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print("listening at", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
