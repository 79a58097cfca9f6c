"""Thinking tags between tokens and text: the one place where a response's tokens become text and its thinking span is found.

In some tokenizers the tags are special tokens, in others added tokens that are not special, in others plain text over
several tokens. Here a response is decoded so that its tags stand in the text in all three, and nothing else of what is special
does; ``vlm.response`` then reads the text.
"""

import bisect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vlm.response import TAGS, Tags, find_reasoning, tag_tokens, thinking_tags


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a response, with its thinking tags, answer tags and tags of tool calls, without other special tokens."""
    tags, dropped = _special_ids(tokenizer, len(tokenizer))
    if tags.isdisjoint(ids):
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
    kept = [token for token in ids if token not in dropped]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=16)
def _special_ids(tokenizer: Any, _size: int) -> tuple[frozenset[int], frozenset[int]]:
    """The special tokens that tags are made of, and the others. ``_size`` renews the cache of a tokenizer that has grown."""
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    names = tag_tokens(set(special.values()))
    tags = {number for number, name in special.items() if name in names}
    return frozenset(tags), frozenset(special.keys() - tags)


def decode_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """Text of ``ids`` as it reads after the tokens ``before``."""
    return decode(tokenizer, [*before, *ids])[len(decode(tokenizer, before)) :] if before else decode(tokenizer, ids)


class Alignment:
    """The characters of a decoded text and the tokens that they come from."""

    def __init__(self, tokenizer: Any, ids: Sequence[int]) -> None:
        self.tokenizer, self.ids = tokenizer, list(ids)
        self.text = decode(tokenizer, self.ids)
        self._lengths = {len(self.ids): len(self.text)}

    def length(self, tokens: int) -> int:
        """How many characters of the text the first ``tokens`` tokens hold; of a character whose bytes are not all there, none."""
        if tokens not in self._lengths:
            length, whole = self._agreeing(tokens)
            # Some decoders spoil a whole run of bytes that ends within a character; at most three of its bytes stand there.
            for fewer in range(tokens - 1, max(-1, tokens - 4), -1):
                if whole:
                    break
                shorter, whole = self._agreeing(fewer)
                length = max(length, shorter)
            self._lengths[tokens] = length
        return self._lengths[tokens]

    def _agreeing(self, tokens: int) -> tuple[int, bool]:
        """How many characters of the first tokens' own text stand at the start of the whole one, and whether all do."""
        held = decode(self.tokenizer, self.ids[:tokens])
        if self.text.startswith(held):
            return len(held), True
        pairs = enumerate(zip(held, self.text, strict=False))
        return next((place for place, (own, whole) in pairs if own != whole), len(self.text)), False

    def tokens_until(self, characters: int) -> int:
        """The least number of tokens whose text has at least ``characters``."""
        return bisect.bisect_left(range(len(self.ids) + 1), characters, key=self.length)

    def tokens_of(self, character: int) -> tuple[int, int]:
        """The tokens [first, end) that a character comes from: several where its bytes are split."""
        counts = range(len(self.ids) + 1)
        last = bisect.bisect_right(counts, character, key=self.length) - 1
        if self.text[character].isascii():  # one byte; tokens without text before it are not its own
            return last, last + 1
        return bisect.bisect_left(counts, self.length(last), key=self.length), last + 1


def reasoning_token_span(tokenizer: Any, ids: Sequence[int]) -> tuple[int, int] | None:
    """Token span [start, end) strictly inside the first ``<think> ... </think>``, of whatever family; None if it is not closed.

    If the prompt already opened the reasoning, the span begins at token 0.
    """
    alignment = Alignment(tokenizer, ids)
    reasoning = find_reasoning(alignment.text)
    if not reasoning.closed:
        return None
    start = alignment.tokens_until(reasoning.start)
    # A token that contains the end of the reasoning and the start of the tag is not inside.
    return (start, max(start, alignment.tokens_of(reasoning.end)[0]))


def family_tags(tokenizer: Any) -> Tags:
    """The thinking tags that a tokenizer has tokens for, else ``<think>`` and ``</think>``."""
    added = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1)
    others = TAGS[1:]
    return next((tags for tags in others if tags.opening.startswith(added) and tags.closing.startswith(added)), TAGS[0])


def fit_completion(
    text: str, spans: Sequence[tuple[int, int]], tags: Tags, opened: str
) -> tuple[str, list[tuple[int, int]]]:
    """A completion as the model itself would write it after its prompt, and its character spans there.

    Args:
        text: a completion with any family's tags, such as ``<think> trace </think> \\boxed{3}``.
        tags: the model's own.
        opened: the tag and the blanks with which the prompt ends (``vlm.response.open_tag_at_end``). The completion then does
            not open it again, and a completion without reasoning closes it first, as a prompt with thinking off does.
    """
    # The lines of the published chat templates: "<think>\n...\n</think>\n\n" and "<|channel>thought\n...\n<channel|>".
    in_lines = (opened or tags.opening).endswith("\n")
    closing = ("\n" if in_lines else "") + tags.closing + ("\n\n" if opened.endswith("\n") else "")
    edits: list[tuple[int, int, str]] = []
    found = thinking_tags(text)
    if opened and not found:
        edits.append((0, 0, closing))
    for start, end, opens in found:
        if not opened and text[start:end].startswith(tags):
            continue
        if opens:
            first = opened and not text[:start].strip()
            edits.append((start, _skip_blanks(text, end), "" if first else tags.opening))
        else:
            edits.append((len(text[:start].rstrip()), _skip_blanks(text, end), closing))
    fitted, done = "", 0
    for start, end, new in edits:
        fitted, done = fitted + text[done:start] + new, end

    def moved(place: int) -> int:
        return place + sum(len(new) - (end - start) for start, end, new in edits if end <= place)

    return fitted + text[done:], [(moved(start), moved(end)) for start, end in spans]


def _skip_blanks(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())
