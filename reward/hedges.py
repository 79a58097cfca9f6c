"""Words around a number that keep it one answer (``about 5``), and those that make it more, less or no answer (``at least 5``)."""

import re

_ABOUT = """about approximately approx approx. around roughly circa ca ca. exactly only just precisely probably likely maybe
perhaps possibly presumably altogether simply therefore thus hence ungefähr etwa rund genau nur wahrscheinlich
vermutlich vielleicht insgesamt zirka exakt environ exactement seulement probablement peut-être vers aproximadamente
unos unas exactamente solo sólo solamente probablemente quizás apenas cerca примерно около приблизительно ровно только
всего наверное حوالي تقريبا تقريباً فقط نحو 大约 大約 大概 约 約 正好 刚好 恰好 只有 一共 共 总共 總共 可能是 およそ
ちょうど だいたい 大体 おそらく 全部で 合計 약 대략
정확히 총 모두 아마"""
_ABOUT_PHRASES = [
    r"(?:most )?likely",
    r"(?:in )?(?:a )?total(?: of)?",
    r"in all",
    r"à peu près",
    r"(?:au )?total(?: de)?",
    r"alrededor de",
    r"cerca de",
    r"más o menos",
    r"en total",
    r"cca\.?",
]
_EAST_ASIAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LATIN_ABOUT = [re.escape(word) for word in _ABOUT.split() if not _EAST_ASIAN.search(word)]
_ASIAN_ABOUT = [word for word in _ABOUT.split() if _EAST_ASIAN.search(word)]
_MODEST_END = re.compile(
    rf"(?:(?:^|(?<=[\s,]))(?:{'|'.join(_ABOUT_PHRASES + _LATIN_ABOUT)})|{'|'.join(_ASIAN_ABOUT)})[\s,]*$", re.IGNORECASE
)
_MODEST_BEHIND = re.compile(
    r"[\s,]*(?:\b(?:in (?:total|all)|altogether|approximately|exactly|insgesamt|au total|en total|всего)$"
    r"|左右|程度|くらい|ぐらい|정도|쯤|가량)",
    re.IGNORECASE,
)

_FORBIDDEN = r"""or not no nor neither either without except excluding least most more less fewer than cannot can't isn't aren't wasn't
doesn't don't unable unclear unknown impossible wrong incorrect false unless if maximum minimum max between almost
nearly twice double instead rather however versus vs but to and minus plus π \pi oder nicht kein keine keinen
mehr weniger mindestens höchstens maximal minimal zwischen bis ohne falsch weder sondern und fast ou pas plus moins
aucun aucune ni entre sans sauf faux jamais et presque o ni más mas menos mínimo máximo ningún ninguno ninguna nunca
sin falso hasta y casi não mais e oppure non più meno almeno quasi или не нет более больше менее меньше между до и
почти أو ليس ليست لا غير أكثر أقل بين و"""
_FORBIDDEN_ASIAN = """或 不 没 沒 非 以上 以下 至少 最多 至多 最少 超过 超過 多于 多於 少于 少於 大于 大於
小于 小於 高于 低于 之间 之間 之內 以内 以內 未 到 至 和 与 與 及 错 錯 除 无 無 倍 几 幾 第 または
あるいは もしくは ない ません 以降 番目 超え より から まで 間違 前後 か月前 と 또는 아니 아닙 아닌 않 이상 이하 미만 초과 혹은
사이 최소 최대 적어도 부터 까지 과 와 번째"""
_JOINS = {"and", "to", "und", "et", "y", "e", "и", "و", "o", "but", "mas", "até"}
"""Forbidden where a unit should stand (``5 and``), but harmless elsewhere in a sentence."""
_FORBIDDEN_WORDS = frozenset(_FORBIDDEN.split())
_SENTENCE_WORDS = _FORBIDDEN_WORDS - _JOINS
_HARMLESS_ASIAN = re.compile(
    "到底|得到|看到|数到|數到|找到|以及|不过|至于|和谐|总和|總和|的和|答えと|全部と|결과|사과|와인|과일|과자"
)
_ASIAN_FORBIDDEN = re.compile("|".join(sorted(_FORBIDDEN_ASIAN.split(), key=len, reverse=True)))
_TOKEN = re.compile(r"[^\W\d_]+(?:['.-][^\W\d_]+)*|\\pi")


def forbidden(text: str, sentence: bool = False) -> bool:
    """Whether words that stand beside a number make it more or less than one answer.

    Args:
        sentence: the text is part of a sentence, in which "and" may join something else.
    """
    if not text:
        return False
    known = _SENTENCE_WORDS if sentence else _FORBIDDEN_WORDS
    if not known.isdisjoint(word.casefold() for word in _TOKEN.findall(text)) or "n't" in text:
        return True
    return not text.isascii() and _ASIAN_FORBIDDEN.search(_HARMLESS_ASIAN.sub("", text)) is not None


def without_hedge(before: str) -> str:
    """What stands before a number, without words that put one value modestly at its end."""
    for _ in range(3):
        shorter = _MODEST_END.sub("", before)
        if shorter == before:
            break
        before = shorter
    return before.strip()


def without_hedge_behind(after: str) -> str:
    """What stands behind a number, without ``in total`` and the like at its end."""
    return _MODEST_BEHIND.sub("", after)
