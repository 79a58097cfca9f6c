"""Words around a number that keep it one answer (``about 5``), and those that make it more, less or no answer (``at least 5``)."""

import re

from reward.denials import is_doubted

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

_FORBIDDEN = r"""wrongly mistakenly incorrectly erroneously falsely mistake fälschlich fälschlicherweise versehentlich erreur
erróneamente erroneamente ошибочно ошибке
or not no nor neither either without except excluding least most more less fewer than cannot can't isn't aren't wasn't
doesn't don't hardly unable unclear unknown impossible wrong incorrect false unless if maximum minimum max between almost
nearly twice double instead rather however versus vs but to and minus plus π \pi oder nicht kein keine keinen
mehr weniger mindestens höchstens maximal minimal zwischen bis ohne falsch weder sondern und fast ou pas plus moins
aucun aucune ni entre sans sauf faux jamais et presque o ni más mas menos mínimo máximo ningún ninguno ninguna nunca
sin falso hasta y casi não mais e oppure non più meno almeno quasi или не нет более больше менее меньше между до и
почти أو ليس ليست لا غير أكثر أقل بين و"""
_FORBIDDEN_ASIAN = """误算 误写 误读 误认 误以为 误数 误把 误记 誤算 誤写 誤読 誤っ 誤認 誤寫 잘못 실수로
或 不 没 沒 非 以上 以下 至少 最多 至多 最少 超过 超過 多于 多於 少于 少於 大于 大於
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


# Words that make a number the end of a span, where they stand directly beside it: "after 2017", "2017 onwards", "2017年以前".
_SPAN_LEADS = """before after since until till beyond past over under above below exceeding preceding following starting beginning
ending prior previous later earlier early late inside outside within ahead short excess upwards? downwards? decades? centur(?:y|ies)
vor nach seit ab bis über unter innerhalb oberhalb unterhalb größer kleiner höher niedriger jenseits
avant après depuis dès jusqu partir delà dessus
dessous supérieure?s? inférieure?s? postérieure?s? antérieure?s? années décennie siècle antes después despues desde hasta partir
encima debajo arriba abajo allá mayor(?:es)? menor(?:es)? superior(?:es)? inferior(?:es)? posterior(?:es)? anterior(?:es)? previo
previa años década siglo depois até além acima abaixo maior(?:es)? anos prima dopo oltre sopra sotto fino partire maggiore minore
superiore inferiore anni decennio до после свыше ниже выше قبل بعد منذ حتى فوق تحت أكبر أصغر"""
_SMALL_WORDS = """of to at in on with from than the an? o equal igual égale?s? uguale
year years value number age date von vom dem der den die das als im jahre? zahl
wert de du des d l le la les à aux? que qu an année el los las del al? año número valor do da dos das ao ano ou di dal dell il lo
anno из в чем года год من عام سنة"""
_SPAN_BEFORE = re.compile(
    rf"\bas of$|\b(?:{'|'.join(_SPAN_LEADS.split())})(?:[ '’-]{{1,3}}(?:{'|'.join(_SMALL_WORDS.split())})){{0,4}}[ '’]?$"
    r"|[早晚先后後高低优劣长長短快慢强強弱重轻輕远遠近][于於]$|(?:最[大低高小]で|少なくと|多くて|少なくて)も?$",
    re.IGNORECASE,
)
_SPAN_BEHIND = re.compile(
    r"[ ,-]{0,2}(?:onwards?|forwards?|upwards?|downwards?|aufwärts|abwärts|(?:in )?adelante"
    r"|en a(?:delante|vant)|(?:hacia|para) (?:arriba|abajo|cima|baixo)"
    r"|in (?:poi|avanti|su|giù)|em diante|(?:a|para) frente)(?!\w)"
    r"|[ ,-]{0,2}(?:[^\W\d_]{1,12}\.?,? )?(?:and (?:up|over|above|below|under|beyond|down|before|after|earlier|later|older|younger)"
    r"|(?:und|et|y|e|и|&) (?:darüber|darunter|älter|jünger|später|früher|danach|davor|plus|après|avant|depuis|después|antes|posterior\w*"
    r"|anterior\w*|siguientes|seguintes|depois|oltre|dopo|prima|позже|раньше|ранее|далее|выше|ниже|старше|младше|после|до)"
    r"|at the (?:latest|earliest)|al m[aáií][sxn]s?imo|с (?:лишним|небольшим)|until now|to date)(?!\w)"
    r"|[ ,-]{0,2}(?:up|on|down|over|above|below|under|beyond|past|before|after|since|until|till|earlier|later|прежде|позже|ранее|раньше"
    r"|danach|davor|später|früher|après|avant|después|antes|depois|dopo|prima|adelante)[\W_]*$"
    r"|-?er(?:n|[ -]jahren?)?(?!\w)|-(?:х|е|ые|ых)(?!\w)|['’]s(?!\w)| ish(?!\w)| *(?:فصاعد|فأكثر|فأقل"
    r"|على الأ|فما |وما (?:بعد|قبل|فوق)|قبل|بعد)"
    r"| ?[^\W\d_]{0,3}? ?(?:以前|以[后後来來]|之[前后後]|(?<=年)[来來]|年代|[年月日号號]起|年(?:开始|開始)|上回|下回|足らず|余り|あまり"
    r"|이후|이전|이래|이내|[년월주일분초간] ?[안내](?:에|으?로)|년대|보다|넘(?:는|게|음|습|었|어요|다)"
    r"|안 [됨된되됩]|남짓|开外|開外|往上|朝上|以外|出头|出頭"
    r"|[前后後](?=\W*$|[的にでのは是])|[超弱強](?=\W*$)|[전후](?=\W*$|[에의이입]))"
    r"| ?[^\W\d_]?(?:多|余|餘)(?![边邊面项項角彩数數])| ?여 ?(?=[개명년일월살회번원])",
    re.IGNORECASE,
)
_DECADE = re.compile(r"(?:1[6-9]|20)[1-9]0$")


def spans(before: str, number: str, after: str) -> bool:
    """Whether the words directly beside a number make it the end of a span, a decade or a bound, which is no one value."""
    if before and _SPAN_BEFORE.search(without_hedge(before)):
        return True
    if after[:1] in ("s", "S") and not after[1:2].isalnum() and number.endswith("0"):  # "the 90s"; "90s" are seconds
        return bool(_DECADE.match(number)) or before.casefold().endswith("the")
    return bool(after) and _SPAN_BEHIND.match(after) is not None


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
    if not text.isascii() and _ASIAN_FORBIDDEN.search(_HARMLESS_ASIAN.sub("", text)):
        return True
    return is_doubted(text)


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
