"""What the tiny models are pretrained on: endless examples for the VLM, endless dialogues for the reasoner."""

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from data_construction.prompts import load_prompts
from data_construction.sources import LEARNED, bind_split, draw_problems, families, wording
from data_construction.sources.render import CELLS, COLOURS, LOOKS, PLACES, SHAPES, draw_radii
from data_construction.sources.scenes import GRID, grid_image
from data_construction.sources.wording import Facts
from vlm.chat import INSTRUCTIONS

KINDS = ("colour", "shape", "shape", "thing", "digit")
TRUST = 0.8  # how often pretraining takes a note beside the image for what is there
FACT = re.compile(r"(?:row \d|[A-C]\d): ([a-z0-9 ]+)")  # what only the image can tell


@dataclass
class PretrainExample:
    """One question and answer; ``picture`` is None for text only; ``spans`` of the answer carry no loss.

    ``before`` holds earlier turns of the conversation, (question, answer) each, which carry no loss; the image is shown
    in the first turn.
    """

    question: str
    answer: str
    picture: Any = None
    spans: tuple[tuple[int, int], ...] = ()
    before: tuple[tuple[str, str], ...] = ()


class Examples:
    """Endless pretraining examples. Everything is drawn from the ``pretrain`` split."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"pretrain/{seed}")
        self.families = {
            family.name: bind_split(source, family, "pretrain") for source, family in families("scenes,digits")
        }

    def look(self, hard: float) -> Any:
        return LOOKS["hard" if self.rng.random() < hard else "easy"]

    def problem(self, name: str, hard: float) -> tuple[Facts, Facts, dict[str, Any], Any]:
        """Facts, what a hasty look makes of them, the parameters of a question, and the image."""
        family = self.families[name]
        scene, params, _ = draw_problems(family, self.rng)
        look = self.look(hard)
        facts = family.facts(scene)
        if "digit" in name:
            return facts, facts, params, family.draw(scene, look, self.rng)
        radii = draw_radii(look, self.rng)
        return facts, wording.hasty(facts, radii), params, grid_image(scene, look, self.rng, radii)

    def reasoning(self, name: str, hard: float) -> PretrainExample:
        """Describe, then conclude: the plain reasoning that a base model has met. No word of looking again."""
        _, seen, params, picture = self.problem(name, hard)
        said, answer = self._conclude(name, params, seen)
        return PretrainExample(self._question(name, params, "describe"), f"{said} \\boxed{{{answer}}}", picture)

    def derivation(self, name: str) -> PretrainExample:
        """The same as text alone, about facts that are given; loss only on what follows from them."""
        family = self.families[name]
        scene, params, _ = draw_problems(family, self.rng)
        said, answer = self._conclude(name, params, family.facts(scene))
        spans = tuple(match.span(1) for match in FACT.finditer(said))
        return PretrainExample(self._question(name, params, "describe"), f"{said} \\boxed{{{answer}}}", None, spans)

    def direct(self, name: str, hard: float) -> PretrainExample:
        _, seen, params, picture = self.problem(name, hard)
        answer = self._conclude(name, params, seen)[1]
        return PretrainExample(self._question(name, params, "direct"), f"\\boxed{{{answer}}}", picture)

    def _question(self, name: str, params: dict[str, Any], style: str) -> str:
        return f"{self.families[name].question(params)} {INSTRUCTIONS[style]}"

    def _conclude(self, name: str, params: dict[str, Any], seen: Facts) -> tuple[str, str]:
        """What is made of what was seen. A note about a place is taken as read: that is what claims have to unteach."""
        if name == "claims" and self.rng.random() < TRUST:
            seen = seen | {params["place"]: params["note"]}
        return wording.conclude(name, params, seen)

    def passing(self, hard: float) -> PretrainExample:
        """A look in passing: the whole grid, or a row, a place or two of it."""
        kind = self.rng.choice(KINDS)
        target = "the grid" if self.rng.random() < 0.4 and kind != "thing" else self._target(kind)
        return self._look(wording.VisualQuestion(kind, target), hard, again=False)

    def careful(self, hard: float) -> PretrainExample:
        """A second look at a row or a place."""
        kind = self.rng.choice(KINDS)
        return self._look(wording.VisualQuestion(kind, self._target(kind)), hard, again=True)

    def _target(self, kind: str) -> str:
        if kind == "thing":
            return self.rng.choice(PLACES)
        if kind == "digit" or self.rng.random() < 0.6:
            return f"row {self.rng.randint(1, CELLS)}"
        return " and ".join(self.rng.sample(PLACES, self.rng.choice((1, 2))))

    def noted(self, hard: float) -> PretrainExample:
        """A place with a note about it."""
        _, seen, params, picture = self.problem("claims", hard)
        look = wording.look_at("claims", params)
        if self.rng.random() < TRUST:
            seen = seen | {params["place"]: params["note"]}
        return PretrainExample(wording.request(look, self.rng), wording.reply(look, seen), picture)

    def glance(self, name: str, hard: float) -> PretrainExample:
        """The question put bluntly, and the bare total: no part of it is said, so all of it has to be seen at once."""
        _, seen, params, picture = self.problem(name, hard)
        asked, reply = self._glance(name, params, seen)
        return PretrainExample(asked, reply, picture)

    def asked_again(self, name: str, hard: float) -> PretrainExample:
        """A question answered from a hasty look, then one or two turns that ask to look again; or such a turn alone.

        That a user asks to look again is as far as it goes: no answer goes back to the image of its own accord.
        """
        facts, seen, params, picture = self.problem(name, hard)
        said, answer = self._conclude(name, params, seen)
        if self.rng.random() < 0.5:
            first = self._question(name, params, "describe"), f"{said} \\boxed{{{answer}}}"
        else:
            first = self._glance(name, params, seen)
        look = wording.look_at(name, params)
        turns = [(wording.request(look, self.rng, again=True), wording.reply(look, facts)) for _ in range(2)]
        before = self.rng.choice(((), (), (first,), (first,), (first, turns[0])))
        question, reply = turns[1]
        return PretrainExample(question, reply, picture, before=before)

    def _glance(self, name: str, params: dict[str, Any], seen: Facts) -> tuple[str, str]:
        if name == "claims" and self.rng.random() < TRUST:
            seen = seen | {params["place"]: params["note"]}
        asked = wording.glance_request(name, params, self.families[name].question(params), self.rng)
        return asked, wording.glance(name, params, seen)

    def _look(self, look: wording.VisualQuestion, hard: float, again: bool) -> PretrainExample:
        drawn = self.problem("digit_list" if look.kind == "digit" else "list", hard)
        seen = drawn[0] if again else drawn[1]
        asked = wording.request(look, self.rng, again)
        return PretrainExample(self.rng.choice((GRID, "")) + asked, wording.reply(look, seen), drawn[3])


def collate(processor: Any, examples: list[PretrainExample]) -> dict[str, torch.Tensor]:
    """Right-padded input_ids, attention_mask, labels (B, L) and, with images, pixel_values and image_grid_thw."""
    tokenizer = getattr(processor, "tokenizer", processor)
    pictures = [example.picture for example in examples if example.picture is not None]
    vision = processor.image_processor(pictures, do_resize=False, return_tensors="pt") if pictures else {}
    tokens_each = [int(grid.prod()) // 4 for grid in vision["image_grid_thw"]] if pictures else []
    rows, taken = [], iter(tokens_each)
    for example in examples:
        said = [text for turn in example.before for text in turn]
        messages: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
            for number, text in enumerate([*said, example.question])
        ]
        if example.picture is not None:
            messages[0]["content"].insert(0, {"type": "image"})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if example.picture is not None:
            prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * next(taken))
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = tokenizer(example.answer, add_special_tokens=False, return_offsets_mapping=True)
        labels = [
            -100 if any(start < end_ and begin < end for begin, end_ in example.spans) else token
            for token, (start, end) in zip(tail["input_ids"], tail["offset_mapping"], strict=True)
        ]
        end_token = tokenizer.eos_token_id
        rows.append((head + tail["input_ids"] + [end_token], [-100] * len(head) + labels + [end_token]))
    length = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    batch = {
        "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows]),
    }
    if pictures:
        batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token_id).int()
        batch |= {key: vision[key] for key in ("pixel_values", "image_grid_thw")}
    return batch


# The reasoner: dialogues about facts that it cannot see


class Dialogues:
    """Endless training rows for the reasoner, in the words of the short prompts: request, conclude, rewrite."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"dialogues/{seed}")
        self.examples = Examples(seed)
        self.prompts = load_prompts("short")

    def rows(self) -> list[PretrainExample]:
        """All rows of one simulated episode: a glance, then looks. Some misread the image; what is right decides nothing here."""
        rng = self.rng
        name = rng.choices(LEARNED, weights=(4, 1, 1, 1, 1))[0]
        family = self.examples.families[name]
        scene, params, _ = draw_problems(family, rng)
        facts = family.facts(scene)
        question = family.question(params)
        look = wording.look_at(name, params)
        rounds: list[dict[str, str]] = []
        rows, trace = [], []
        for number in range(1 + rng.choice((0, 1, 1, 1, 2, 2))):
            truth = self._misread(facts) if number == 0 or rng.random() < 0.2 else facts
            said, answer = wording.conclude(name, params, truth)
            total = wording.total(name, params, truth)
            if number == 0:
                asked, reply = wording.glance_request(name, params, question, rng), wording.glance(name, params, truth)
                said = f"{total}." if total else said
            else:
                asked, reply = wording.request(look, rng, again=True), wording.reply(look, truth)
                said = f"{said.removesuffix('.')}; {total}." if total else said
                trace.append(wording.cue(look, rng))
            rows.append(self._row("request", question, rounds, asked))
            rounds.append({"request": asked, "reply": reply, "conclusion": ""})
            rows.append(self._row("conclude", question, rounds, f"{said} \\boxed{{{answer}}}"))
            rounds[-1]["conclusion"] = said
            trace.append(said)
        rows.append(self._row("rewrite", question, rounds, " ".join(trace)))
        return rows

    def _misread(self, facts: dict[str, str]) -> dict[str, str]:
        rate = self.rng.choice((0.0, 0.1, 0.3, 1.0))
        values = [str(digit) for digit in range(10)] if next(iter(facts.values())).isdigit() else None
        drawn = {}
        for place, fact in facts.items():
            if self.rng.random() < rate:
                thing = f"{self.rng.choice(COLOURS)} {self.rng.choice(SHAPES)}"
                fact = self.rng.choice(values) if values else self.rng.choice((thing, thing, "none"))
            drawn[place] = fact
        return drawn

    def _row(self, name: str, question: str, rounds: list[dict[str, str]], answer: str) -> PretrainExample:
        return PretrainExample(self.prompts.render(name, question=question, rounds=rounds), answer)


def dialogue_batches(dialogues: Dialogues, size: int) -> Callable[[float], list[PretrainExample]]:
    """Batches of ``size`` rows of like length, so that little is padding, from a shuffled pool of episodes.

    The eighths of length come in turn: processes that share a step then meet rows of like length, and none waits.
    """
    pool: list[PretrainExample] = []
    eighths = itertools.cycle(range(8))

    def batch(_: float) -> list[PretrainExample]:
        while len(pool) < 16 * size:
            pool.extend(dialogues.rows())
        dialogues.rng.shuffle(pool)
        taken = sorted(pool[-8 * size :], key=lambda example: len(example.question) + len(example.answer))
        del pool[-8 * size :]
        start = next(eighths) * size
        pool.extend(taken[:start] + taken[start + size :])
        return taken[start : start + size]

    return batch
