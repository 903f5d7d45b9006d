"""What the workers saw: every request that reached them, when, and what they answered."""

import json
from dataclasses import dataclass
from pathlib import Path

RESUME = "/resume_memory_occupation"


@dataclass(slots=True)
class Call:
    """One request at a worker; `answer` is empty while there is none.  Both are whole messages."""

    at: float  # seconds, on the monotonic clock
    model: str
    request: str
    answer: str = ""

    @property
    def path(self) -> str:
        return self.request.split(" ", 2)[1]


class Wire:
    """The file that workers write, read anew for each question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def calls(self, model: str | None = None, path: str | None = None) -> list[Call]:
        """In the order of their arrival; of one model and one path only, where they are given."""
        last: dict[str, Call] = {}  # of each connection
        calls = []
        for line in self._path.read_bytes().splitlines() if self._path.exists() else []:
            at, of, connection, way, text = json.loads(line)
            if way == "sent":
                last[connection].answer += text
            elif connection in last and not last[connection].answer:
                last[connection].request += text
            else:
                last[connection] = Call(at, of, text)
                calls.append(last[connection])
        return [call for call in calls if model in (None, call.model) and path in (None, call.path)]

    def switches(self) -> int:
        """How often a model was woken."""
        return len(self.calls(path=RESUME))
