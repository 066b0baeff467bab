"""Measures the relay's formatting in its own environment: python -m tests.bench.inside.formatting 7

Prints {"whole": [seconds], "streamed": {bytes: [seconds]}}, a figure for each round.
"""

from __future__ import annotations

import json
import sys
import time

from services.relay.cutting import Parts

WHOLE = 15_000
STREAMED = (10_000, 20_000, 40_000, 70_000, 100_000)
EDIT_CHARACTERS = 60

BLOCK = """\
## Step {n}: what to look at

Most of the time **{n} out of a hundred** is *not* what it seems; see \
[the manual](https://example.org/{n}) and `settings[{n}]`, or ask somebody who knows.

1. Take the first one, and put it **aside**.
2. Compare it with the second:
   - its length is {n} cm,
   - its colour is ~~blue~~ _green_.

| name | length | note |
|------|-------:|------|
| first | {n} | as it was before |
| second | 2{n} | `new` |

```python
def measure_{n}(values: list[float]) -> float:
    return sum(values) / len(values)  # <{n}> & more
```

> It is said that this was never tried. That is wrong: see above.

"""


def text_of(size: int) -> str:
    """Make Markdown of this many bytes; it is ASCII."""
    text = ""
    number = 0
    while len(text) < size:
        text += BLOCK.format(n=number)
        number += 1
    return text[:size]


def show(parts: Parts, text: str) -> None:
    """Do what a delivery does for an edit: read, compare every part, write the last one's text."""
    parts.read(text)
    for position in range(len(parts)):
        parts.token(position)
    last = parts.render(len(parts) - 1)
    last.entities_json()


def whole(text: str) -> float:
    """Show a complete answer; returns the seconds that it took."""
    began = time.process_time()
    parts = Parts("markdown")
    parts.read(text)
    for position in range(len(parts)):
        parts.render(position).entities_json()
    return time.process_time() - began


def streamed(text: str) -> float:
    """Show an answer while it grows; returns the seconds that all edits took."""
    began = time.process_time()
    parts = Parts("markdown")
    for end in range(EDIT_CHARACTERS, len(text) + EDIT_CHARACTERS, EDIT_CHARACTERS):
        show(parts, text[:end])
    return time.process_time() - began


def main() -> None:
    """Measure, sizes side by side in each round."""
    rounds = int(sys.argv[1])
    whole(text_of(WHOLE))  # what is compiled at first use
    found: dict[int, list[float]] = {size: [] for size in STREAMED}
    wholes = []
    for _ in range(rounds):
        wholes.append(whole(text_of(WHOLE)))
        for size in STREAMED:
            found[size].append(streamed(text_of(size)))
    json.dump({"whole": wholes, "streamed": found}, sys.stdout)


if __name__ == "__main__":
    main()
