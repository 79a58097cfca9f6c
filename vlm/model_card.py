"""What a model reads, in the words of its own card: the key ``reads`` in the header of the README.md of its folder.

    ---
    reads: grids of coloured shapes and of handwritten digits, and nothing else
    ---

A small model answers any question about any image, so that a reader cannot tell from the answer that the image was none that it
knows. ``ask`` and the demo show this line beside the answers, and training copies it into the folder of the trained model.
"""

import json
from pathlib import Path

from configs.front_matter import read_front_matter
from configs.jsonl import write_text_atomic
from vlm.identity import model_folder

CARD = "README.md"
MAX_LINE = 200


def what_it_reads(name: str | Path) -> str | None:
    """The line of a bundled or local model; None if its card has none, and for a hub name or a served model."""
    folder = model_folder(name)
    line = read_front_matter(folder / CARD).get("reads") if folder is not None else None
    if not isinstance(line, str):
        return None
    plain = "".join(letter if letter.isprintable() else " " for letter in line)
    return " ".join(plain.split())[:MAX_LINE].rstrip(" .") or None


def reads_sentence(line: str) -> str:
    """The line as a sentence."""
    return f"This model reads {line} (its model card)."


def keep_card(start: str | Path, trained: Path) -> None:
    """Write a card with the line of the model ``start`` into the folder of a model trained from it. A card that is there stays."""
    line = what_it_reads(start)
    if line is None or (trained / CARD).exists():
        return
    header = f"---\nreads: {json.dumps(line, ensure_ascii=False)}\n---\n"
    text = "Trained with Reflection-V. `reads` is taken over from the card of the model that training started from.\n"
    write_text_atomic(trained / CARD, header + text)
