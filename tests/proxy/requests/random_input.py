"""Random JSON texts with odd spacing, escapes, duplicates, and strings that look like members."""

import json
import random


class RandomInput:
    """The same texts for the same seed."""

    NAMES = ("model", "a", "b", "é", "", 'q"', "\\", "x}", "stream_options")
    TEXTS = ("", "m", '"model": "m"', "\\", '\\"', "}{", "],[", "\n\t\x01", "€", "😀", "\u2028", '{"a":1}', "/")

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def space(self) -> str:
        return "".join(self.draw.choices(" \t\r\n", k=self.draw.choice((0, 0, 0, 1, 3))))

    def string(self, value: str) -> str:
        """Spelled at random, each character plain or escaped."""
        spelled = json.dumps(value, ensure_ascii=self.draw.random() < 0.5)[1:-1]
        if self.draw.random() < 0.3:
            pairs = value.encode("utf-16-be")
            spelled = "".join(f"\\u{pairs[at]:02X}{pairs[at + 1]:02x}" for at in range(0, len(pairs), 2))
        return f'"{spelled}"'

    def value(self, depth: int = 0) -> str:
        kinds = 5 if depth > 3 else 7
        match self.draw.randrange(kinds):
            case 0:
                return self.draw.choice(("true", "false", "null"))
            case 1:
                return self.draw.choice(("0", "-1", "1", "12", "1.5", "1e9", "-0.0", "123456789012345678901234567890"))
            case 2 | 3 | 4:
                return self.string(self.draw.choice(self.TEXTS))
            case 5:
                inner = (self.space() + self.value(depth + 1) + self.space() for _ in range(self.draw.randrange(4)))
                return f"[{','.join(inner) or self.space()}]"
            case _:
                return self.object(depth + 1)

    def object(self, depth: int = 0) -> str:
        members = [f"{one}{self.space()}" for one in self.members(depth)]
        return "{" + (",".join(members) or self.space()) + "}"

    def members(self, depth: int = 0) -> list[str]:
        return [
            f"{self.space()}{self.string(name)}{self.space()}:{self.space()}{self.value(depth)}"
            for name in self.draw.choices(self.NAMES, k=self.draw.randrange(7))
        ]

    def document(self) -> bytes:
        return (self.space() + self.object() + self.space()).encode()
