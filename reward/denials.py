"""Words of doubt in several languages: what follows ``I doubt that`` or ``it used to be`` is not said to be so.

One list for all readers of answers: ``reward.hedges`` (numbers), ``reward.sentence`` (words), ``reward.cues`` (options, yes and no) and
``reward.phrases`` (structures).
"""

import re

DOUBTS = """
    doubt; doubts; doubted; doubting; doubtful; doubtfully; dubious; dubiously; question whether; question if;
    question that; questions whether; questionable; wonder; wonder whether; wonder if; unlikely; improbable;
    implausible; implausibly; scarcely; hard to say; hard to tell; hard to believe; hard to accept;
    difficult to say; difficult to tell; difficult to believe; impossible to say;
    impossible to tell; unconvinced; not convinced; not persuaded; sceptical; skeptical; not sure it;
    not sure that; not sure if; not sure whether; not certain it; not certain that; not certain if;
    not certain whether; unsure if; unsure whether; unsure that; not clear that; not clear if; not clear whether;
    refuse to; deny; denies; denied; dispute; disputed; disagree; disbelieve; reject; reject that; supposedly;
    allegedly; used to be; used to have; used to say; used to show; formerly; far from; no one can say; no one can tell; no one could say;
    no one could tell; no one can know; no one can be sure; nobody can say; nobody can tell; nobody could say;
    nobody could tell; nobody can know; nobody can be sure; no one knows; nobody knows; no one is sure;
    no one is certain; nobody is sure; nobody is certain; no way to say; a mistake to; an error to; a lie to;
    who knows; who can say; no telling; no knowing; no saying; bezweifle; bezweifeln; bezweifelt; zweifle;
    zweifeln; zweifelhaft; fraglich; fragwürdig; unwahrscheinlich; kaum; schwerlich; schwer zu sagen; nicht sagen;
    falsch, ja; falsch, nein; pas dire; puede decir; può dire; angeblich; bestreite; bestreiten; früher war;
    früher waren; niemand weiß; niemand kann sagen; doute; doutes; doutons; doutez; douter; douteux; douteuse;
    improbable; peu probable; difficile à dire; difficile de dire; difficile de croire; guère; prétendument;
    autrefois; jadis; personne ne sait; personne ne peut; dudo; duda que; dudamos; dudoso; dudosa;
    difícil de decir; difícil decir; difícil de creer; difícilmente; supuestamente; solía; antes era; nadie sabe;
    no sabría; nadie puede decir; duvido; duvidamos; duvidoso; improvável; difícil dizer; dificilmente; costumava;
    supostamente; ninguém sabe; dubito; dubitiamo; improbabile; difficile dire; difficilmente;
    nessuno sa; сомневаюсь; сомневаемся; сомнительно; вряд ли; едва ли; маловероятно;
    трудно сказать; сложно сказать; трудно поверить; якобы; раньше было; раньше был; никто не знает;
    никто не может сказать; أشك; اشك; نشك; أستبعد; استبعد; مستبعد; من الصعب القول; 怀疑; 懷疑; 质疑; 質疑; 存疑;
    可疑; 未必; 难说; 難說; 很难说; 很難說; 很难认为; 难以认为; 难以相信; 难以说; 不见得; 曾经; 曾經; 曾是; 曾为;
    以前是; 原先是; 没人知道; 没有人知道; 没人能; 没有人能; 谁知道; 疑わし; 疑問; 疑う; 疑い; 疑って; 怪しい;
    言い難; 言いがた; 言いにく; 言えませ; 言えな; 言い切れ; 限りませ; 限らな; 考えにく; 思えませ; 思えな; かつて;
    以前は; 誰にも分か; 誰にもわか; 誰も知; 의심스; 의심합; 의심이; 의심한; 의심된; 의심돼; 의심해; 의문; 기 어렵;
    기 어려; 기 힘들; 리가 없;
    debatable; previously it; previously was; i question; would question; no one is able to; no one says; nobody says; hesitate to;
    hard to call; saying no; saying yes; answering no; answering yes; poco probable; pouco provável; poco probabile; لا أحد يعلم;
    glaube nicht, dass; denke nicht, dass; не думаю, что; не считаю, что; не уверен, что; не верю, что;
    예전에; 예전엔; 한때; 아무도 모; 할 수 없
"""
"""Phrases set apart by ``;``. Those of scripts without spaces may be the beginning of a word."""

CERTAIN = """
    no doubt; without doubt; without a doubt; without any doubt; beyond doubt; beyond a doubt; beyond any doubt; sans doute;
    sans aucun doute; 疑いなく; 疑いない; 疑いの余地
"""
"""Phrases with a word of doubt in them that say the opposite."""

_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def phrases_of(listed: str) -> list[str]:
    """The phrases of a list in which ``;`` sets them apart."""
    return [phrase.strip() for phrase in listed.split(";") if phrase.strip()]


def _pattern(listed: str) -> re.Pattern[str]:
    phrases = sorted(map(re.escape, phrases_of(listed)), key=len, reverse=True)
    spaced = "|".join(phrase for phrase in phrases if not _NO_SPACES.search(phrase))
    unspaced = "|".join(phrase for phrase in phrases if _NO_SPACES.search(phrase))
    return re.compile(rf"\b(?:{spaced})\b|(?:{unspaced})", re.IGNORECASE)


_DOUBTED, _CERTAINLY = _pattern(DOUBTS), _pattern(CERTAIN)


_WORD = re.compile(r"[^\W\d_]+")
_FIRST_WORDS = frozenset(_WORD.findall(phrase)[0] for phrase in phrases_of(DOUBTS))


def is_doubted(text: str) -> bool:
    """Whether a text doubts what it says, or says that it was so once: ``I doubt it``, ``it used to be``."""
    if text.isascii() and _FIRST_WORDS.isdisjoint(_WORD.findall(text.casefold())):
        return False  # most texts: faster than the search
    return _DOUBTED.search(text) is not None and _DOUBTED.search(_CERTAINLY.sub("", text)) is not None
