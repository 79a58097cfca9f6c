"""What the words around an answer do: they frame it, deny it, give a reason for it, or say yes and no. In several languages.

``scan`` takes a text apart into ``Phrase``s. ``reward.options`` and ``reward.yes_no`` read their answers from these. The time is linear
in the text.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from reward.denials import CERTAIN, DOUBTS, phrases_of
from reward.parsing import plain

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"\\[A-Za-z]+|\d+(?:[.,:]\d+)*|[{_CJK}]|[^\W\d_{_CJK}]+(?:'[^\W\d_{_CJK}]+)*|\S")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": " "})

_PHRASES = {
    # Nouns and verbs that announce an answer.
    "answer": """
        ans; l'option; l'opzione; richtige antwort; bonne réponse; respuesta correcta;
        answer; answers; option; options; choice; letter; choose; select; pick; go with; i go with; i'd go with; opt for;
        right answer; right option; right choice; right one; correct one; best answer; best option; antwort; wähle; auswahl;
        lösung; réponse; choix; choisis; respuesta; opción; opcion; elijo; selecciono; solución; resposta; opção; alternativa;
        escolho; risposta; opzione; scelgo; ответ; вариант; выбираю; الإجابة; الاجابة; الجواب; الخيار; 答案; 选项; 选择; 选; 選項;
        選擇; 選; 应选; 項; 项; 정답; 답; 답은; 보기; 선택지; 선택; 答え; 正解; 回答; 選択肢; 解答; 选取
    """,
    "article": """
        the; a; an; one; der; die; das; den; dem; ein; eine; einen; einem; le; la; les; l'; un; une; el; los; las; lo; una; o; os;
        um; uma; il; gli; du; de la
    """,
    "frame": """
        the given; given statement; the given statement; given claim; given answer;
        it; this; that; they; i; we; you; he; she; would; should; must; will; can; do; does; did; think;
        believe; guess; say; i'd; i'd say; i'm; i am; suppose; conclude; take; likely; most likely; probably; most probably;
        definitely; clearly; certainly; surely; obviously; really; indeed; absolutely; of course; only; final; my; statement;
        claim; sentence; image; picture; figure; photo; diagram; chart; graph; question; assertion; in the image; in the picture;
        in the figure; in the photo; in the diagram; in the chart; in this image; in this picture; shown; depicted; pictured;
        shown here; here; well; just; please; sure; note; both; not sure but; in fact; so far; very; quite; totally; completely;
        entirely; perfectly; best; description; この場合; その場合; 이 경우; 두 경우; even if; as if; only one; only option; only choice;
        of the four ,; of the three ,; of the options ,; of the choices ,; of these ,; of all options ,; among the options ,;
        among these ,; also; too; as well; i'm sure; as shown; ich; denke; glaube;
        wohl; vermutlich; wahrscheinlich; sicher; aussage; ganz; doch; würde; sagen; es; dies; dieses; auch; je; pense; crois;
        dirais; ce; cela; ça; que; sûrement; probablement; bien; tout; tout à fait; affirmation; correctement; yo; creo; pienso;
        eso; esto; probablemente; seguramente; claro; la afirmación; afirmación; esta; diría; muy; así; lo; ello; eu; acho; penso;
        isso; provavelmente; io; credo; questo; ciò; probabilmente; я; думаю; считаю; вероятно; скорее всего; утверждение; так;
        вам; наверное; бы; сказал; هذا; هذه; ذلك; هذا الأمر; أعتقد; أظن; أن; العبارة; هذه العبارة; في الصورة; رقم; 我; 我们; 认为;
        觉得; 我认为; 应该; 应; 應該; 该; 该说法; 这; 那; 它; 此; 这个; 这种; 说法; 这个说法; 陈述; 应为; 最; 很; 的; 了; 啊; 呢;
        项; 個; 个; 哦; 大概; 题; 本题; 也; 都; 确实; 當然; 当然; 陈述是; 命题; 该命题; 該; 最终; 最後; 最后; 图中; 图片中;
        描述; 结论; 저는; 제; 생각; 생각에; 생각합니다; 이것; 그것; 진술; 진술은; 번; 입니다; 이다; 예요; 이에요; 에요; 요;
        합니다; 것; 로; 으로; 을; 를; 의; 그; 하겠습니다; 됩니다; です; ます; だ; である; でしょう; と; 思います; 思う; これ;
        それ; その; この; を; に; の; も; 番; になります; だと; よ; ね; 文; その文; 記述; 私;
    """
    + CERTAIN,
    "link": """
        fits; fit; matches; match; suits; passt; 符合;
        is; are; was; were; be; being; been; it's; that's; there's; this is; there is; there are; means; equals; becomes; shows;
        points; points to; pointing; is by; was painted by; was written by;
        represents; depicts; displays; i see; i can see; we see; we can see; you can see; one can see; called; named; looks like;
        seems; remains; seems to be; appears to be; to be; =; :; ist; sind; war; lautet; heißt; bleibt; zeigt; wäre; sei; est;
        sont; serait; était; c'est; il y a; qu'il y a; montre; reste; il s'agit de; il s'agit d'; es; son; está; sería; era;
        muestra; hay; se trata de; queda; é; são; seria; mostra; fica; è; sono; sarebbe; si tratta di; это; есть; является; هو;
        هي; 是; 为; 為; 即; 即为; 显示; 显示的是; 属于; は; が; 은; 는; 이; 가; →; ->; 答案是; 答えは; 正解は; 回答は; 解答は
    """,
    "not": """
        并不; 並不; 并没有;
        not; isn't; aren't; wasn't; weren't; don't; doesn't; didn't; won't; can't; cannot; couldn't; wouldn't; shouldn't; never;
        neither; nor; none; nothing; hardly; without; isnt; doesnt; dont; ain't; nicht; kein; keine; keinen; keiner; keinesfalls;
        niemals; weder; n'est pas; n'est; ne; pas; ni; aucun; aucune; jamais; nunca; tampoco; ningún; ninguna; nem; né; nessuno;
        не; ни; нельзя; ليس; ليست; غير; لا يوجد; لا توجد; لن; لم; 不是; 不; 不能; 不该; 不应; 不選; 不选; 非; 没有; 沒有; 并非;
        並非; 绝非; 未; 没; 勿; 不為; 不为; 아닙니다; 아니다; 아니에요; 아님; 아닌; 않습니다; 않다; 않아요; 지 않; 안;
        ではありません; ではない; じゃない; じゃありません; でない; ありません; ない
    """,
    "except": """
        except; except for; excluding; other than; anything but; everything but; all but; nothing but; besides; apart from;
        unlike; out of; versus; vs; against; opposite; contrary; excludes; eliminate; eliminated; excluded; rule out; ruled out;
        außer; statt; anstatt; sauf; excepté; hormis; excepto; salvo; menos; exceto; tranne; кроме; إلا; ماعدا; عدا; 除; 除了;
        以外; 而非; 排除; 除外; 제외; 외에; 빼고; 말고
    """,
    "wrong": """
        そうではない; no es así; no lo es;
        wrong; false; incorrect; untrue; inaccurate; invalid; mistaken; falsch; unwahr; inkorrekt; unrichtig; unzutreffend; faux;
        fausse; incorrecte; inexact; inexacte; falso; falsa; incorrecto; incorrecta; errado; errada; incorreto; incorreta;
        erróneo; errónea; sbagliato; sbagliata; scorretto; errato; неверно; не так; неправильно; ложь; ложно; неправда; неверный;
        неправильный; خطأ; خاطئ; خاطئة; غير صحيح; غير صحيحة; كاذب; ليس صحيحا; ليس صحيحًا; 错; 错误; 錯; 錯誤; 不对; 不對; 不正确;
        不正確; 不成立; 假; 假的; 有误; 不属实; 맞지 않습니다; 맞지 않아요; 옳지 않습니다; 올바르지 않습니다; 정확하지 않습니다;
        그렇지 않습니다; 틀렸습니다; 틀립니다; 틀림; 틀린; 틀렸어요; 거짓; 거짓입니다; 오답; 違います; ちがいます; 違う; 間違い;
        間違いです; 間違っています; 誤り; 誤っています; 不正解; 正しくない; 正しくありません; そうではありません; 偽; うそ;
        yanlış
    """,
    "right": """
        the case; le cas; der fall; el caso; o caso; holds; hold; stands; think so; believe so; richtige; richtigen; так и есть;
        right; true; correct; accurate; valid; wahr; richtig; korrekt; stimmt; zutreffend; das stimmt; vrai; vraie; exact; exacte;
        correcte; juste; cierto; cierta; verdadero; verdadera; correcto; correcta; verdad; certo; certa; verdadeiro; verdadeira;
        correto; correta; verdade; vero; vera; corretto; corretta; giusto; giusta; esatto; верно; правда; правильно; истина;
        правильный; верный; صحيح; صحيحة; صح; الصحيح; الصحيحة; صواب; صحيحا; صحيحًا; 正确; 正確; 对; 對; 没错; 沒錯; 属实; 成立; 真;
        真的; 正确的; 맞습니다; 맞아요; 맞다; 맞음; 맞는; 옳습니다; 사실; 참; 참입니다; 그렇습니다; 그래요; 올바른; 옳은; 正しい;
        そうです; その通り; その通りです; 正解です; 合っています; doğru
    """,
    "yes": """
        yes; yeah; yep; yup; affirmative; jawohl; ja; oui; sí; si; sim; sì; да; نعم; أجل; 是的; 对的; 對的; 嗯; 네; 예; 응; 넵;
        はい; ええ; うん; evet; हाँ
    """,
    "no": """
        no; nope; nah; negative; nein; nö; non; não; нет; لا; كلا; 否; 不是的; 아니요; 아니오; 아뇨; 아니; いいえ; いや; いえ;
        hayır
    """,
    "because": """
        if it were; if they were; if it was; if that were; if this were; if not; if anything; if it had; if they had; if there were;
        because; since; due to; , as; as it; as the; as there; as they; as this; given that; given; considering; for the; which;
        whose; based on; according to; judging; looking at; seeing; explanation; reason; reasoning; e.g.; i.e.; from; weil; , da;
        denn; deshalb weil; aufgrund; laut; begründung; parce que; parce qu'; parce qu'il; puisque; puisqu'il; car; selon;
        d'après; porque; ya que; puesto que; debido a; pues; según; pois; já que; perché; poiché; siccome; потому что; так как;
        поскольку; ведь; لأن; لأنه; لأنها; بسبب; حيث; 因为; 因為; 由于; 由於; 理由; 理由是; 根据; 根據; 解析; 원인; 왜냐하면;
        때문에; 이유; なぜなら; ので; から; 理由は; çünkü
    """,
    "so": """
        so; thus; therefore; hence; consequently; accordingly; so that; also ist; daher; deshalb; folglich; somit; donc; ainsi;
        par conséquent; por lo tanto; por tanto; por eso; entonces; así que; portanto; logo; quindi; dunque; поэтому;
        следовательно; значит; لذلك; إذن; إذا; وبالتالي; 因此; 所以; 故; 综上; 于是; 從而; 从而; 可见; 따라서; 그러므로; 그래서;
        したがって; よって; だから; ゆえに; 故に; 以上より
    """,
    "but": """
        but; however; though; although; instead; whereas; while; rather; sondern; aber; jedoch; obwohl; während; mais; cependant;
        sino; pero; aunque; mas; porém; ma; bensì; а; но; однако; بل; لكن; ولكن; 而是; 但; 但是; 而; 虽然; 하지만; 그러나; が、;
        でも; しかし
    """,
    # Before what they deny; what stands before them is meant.
    "against": """
        and not; rather than; instead of; as opposed to; und nicht; statt; anstatt; et non; et pas; plutôt que; au lieu de; y no;
        en lugar de; en vez de; e não; em vez de; e non; invece di; а не; и не; вместо; وليس; بدلا من
    """,
    # Behind what they deny; what follows is meant instead.
    "rather": "아니라; ではなく; じゃなく; じゃなくて; ではなくて; でなく",
    "join": """
        so does; so do; , as does; , as do; and so does; and so do; and so is; and so are;
        and; or; o; &; and/or; und; oder; et; ou; y; e; ed; oppure; и; или; و; أو; 和; 或; 或者; 及; 与; 與; 还是; 跟; 과; 와;
        또는; 그리고; 혹은; または; もしくは; あるいは; か; /
    """,
    "hedge": """
        可能;
        yeah right; yeah , right; as if .; as if !;
        no lo sé; might; may; could; possible; seldom; rarely;
        maybe; perhaps; possibly; either; partly; partially; half; sometimes; somewhat; depends; it depends; unclear; uncertain;
        not sure; unsure; unknown; no idea; no clue; no answer; no way to tell; no way to know; no way of knowing; no information;
        no comment; no response; no opinion; no image; no picture; no data; no result; cannot tell; can't tell; cannot say;
        can't say; cannot be determined; mostly; can't be determined; cannot determine; not possible; no option;
        not entirely; not completely; not fully; not necessarily; not always; not quite; not exactly; not really; not clear;
        not certain; not known; not given; not applicable; jein; vielleicht; teils; teilweise; unklar; keine ahnung; weiß nicht;
        peut-être; en partie; parfois; je ne sais pas; ne sais pas; quizás; quizá; tal vez; en parte; a veces; no sé; no se puede;
        no se sabe; no es posible; no puedo; no estoy; talvez; não sei; forse; non so; non si può; возможно; может быть; не знаю;
        неизвестно; частично; отчасти; ربما; لا أعرف; لا أعلم; لا يمكن; لا أستطيع; جزئيا; 也许; 也許; 或许; 是否; 对不对; 对错;
        是不是; 对吗; 是吗; 不一定; 不知道; 不确定; 不確定; 无法; 無法; 不能确定; 不能判断; 部分; 不清楚; 难说; 半对半错; 아마;
        글쎄; 알 수; 모르; 모릅니다; 모르겠습니다; かもしれ; たぶん; わかりません; 分かりません; わからない; 不明; 半分;
        oui et non; sí y no; si y no; sim e não; sì e no; نعم ولا; どちら; 一部
    """,
    "doubt": DOUBTS,
    # "Yes, if the lines are straight" leaves the side open.
    "condition": """
        if; if so; unless; depending on; subject to; for the most part; more or less; technically; with one exception;
        with exceptions; under the assumption; under the condition; unter umständen; 이면; 으면; ければ; provided; provided that; providing;
        assuming; supposing; as long as; so long as; , as long as; only when; in case; on condition;
        in theory; in principle; in some cases; in certain cases; in most cases; under certain; usually; generally;
        normally; often; wenn; falls; sofern; solange; es sei denn; vorausgesetzt; meistens; s'il; s'ils; si l'on; si on; si le;
        si la; si les; si elle; si c'est; à condition; à moins; si es; si son; si el; si los; si las; si se; si está; siempre que;
        a menos que; a no ser; con tal de; se for; se o; se a; se è; se il; se la; desde que; a patto; если; при условии; обычно;
        إذا كان; إذا كانت; إلا إذا; بشرط; ما لم; 如果; 假如; 假设; 若; 只要; 除非; 前提; 通常; もし; 場合; ならば; 限り; 通常;
        만약; 만일; 경우; 라면; 다면
    """,
}  # fmt: skip
"""Kind of item -> phrases. One phrase has one kind; the longest phrase at a place counts, and in two kinds the later one."""

OPEN, CLOSE, QUOTES, _STOPS = "([{【《〈", ")]}】》〉", '"“”„«»「」『』', ".。!！;；,，、…،؛"


class Phrase(NamedTuple):
    """A phrase of a text. ``kind``: a key of the phrases, ``stop`` (punctuation), ``label``, ``own`` (an option's words) or ``other``.

    ``option``: of a label or an option's words, its index. ``text``: as written.
    """

    kind: str
    text: str
    option: int = -1


def tokens_of(text: str) -> list[str]:
    """Words, numbers and single signs; of scripts without spaces single characters."""
    return _TOKEN.findall(plain(text).translate(_QUOTES).replace("**", " "))


@cache
def _table() -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """First token -> (tokens of a phrase, kind), longest phrases first."""
    kinds = {
        tuple(tokens_of(phrase.casefold())): kind
        for kind, phrases in _PHRASES.items()
        for phrase in phrases_of(phrases)
    }
    table = defaultdict(list)
    for tokens, kind in sorted(kinds.items(), key=lambda pair: -len(pair[0])):
        table[tokens[0]].append((tokens, kind))
    return dict(table)


Own = Callable[[list[str], int], tuple[int, int]]
"""(tokens, place) -> (index of the option whose words stand there, their number of tokens); (-1, 0) for none."""


def scan(tokens: list[str], own: Own | None = None) -> list[Phrase]:
    """The items of a text. An option's own words win over a phrase that is not longer; labels are left as ``other``."""
    table, folded, items, place = _table(), [token.casefold() for token in tokens], [], 0
    while place < len(tokens):
        option, length = own(tokens, place) if own else (-1, 0)
        found = next(
            (pair for pair in table.get(folded[place], ()) if tuple(folded[place : place + len(pair[0])]) == pair[0]),
            ((), ""),
        )
        if length and length >= len(found[0]):
            item = Phrase("own", " ".join(tokens[place : place + length]), option)
        elif found[1]:
            length = len(found[0])
            item = Phrase(found[1], " ".join(tokens[place : place + length]))
        else:
            length, sign = 1, tokens[place]
            kind = "not" if folded[place].endswith("n't") else "stop" if sign in OPEN + CLOSE + _STOPS else "other"
            item = Phrase("link" if sign == "-" and 0 < place < len(tokens) - 1 else kind, sign)
        if item.text not in QUOTES:
            items.append(item)
        place += length
    return items


class Clause(NamedTuple):
    """The items between two stops. ``end``: the sign behind them; empty where it is a word of contrast, or the text's end."""

    items: list[Phrase]
    end: str


def clauses_of(items: list[Phrase]) -> list[Clause]:
    """The clauses of a text, without the empty ones."""
    clauses, begin = [], 0
    for place, item in enumerate([*items, Phrase("stop", "")]):
        if item.kind in ("stop", "but", "rather", "against"):
            # A word that denies belongs to what it denies.
            end = place + 1 if item.kind == "rather" else place
            clauses.append(Clause(items[begin:end], item.text if item.kind == "stop" else ""))
            begin = place if item.kind == "against" else place + 1
    return [clause for clause in clauses if clause.items]
