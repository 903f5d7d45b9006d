"""Inside the guest: somebody who connects to ports and tries to take them, over and over.

    squat.py FILE PORT...

Ends when FILE is removed, and tells how often what came of it: {"attempts": ..., "taken": ..., "refused": ...}.
"""

import json
import os
import socket
import sys
from collections import Counter


def main() -> None:
    file, *ports = sys.argv[1:]
    seen: Counter[str] = Counter(taken=0, refused=0)
    print("began", flush=True)
    while os.path.exists(file):
        for port in map(int, ports):
            seen["attempts"] += 1
            for host in ("127.0.0.1", "0.0.0.0"):
                with socket.socket() as thief:
                    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        thief.bind((host, port))
                        thief.listen()
                        seen["taken"] += 1
                    except OSError:
                        pass
            with socket.socket() as client:
                client.settimeout(60)
                seen["refused"] += client.connect_ex(("127.0.0.1", port)) != 0
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
