"""Yes and no with reasons, in sentences and in several languages; what leaves the side open is neither."""

import time

import pytest

from reward.yes_no import read_yes_no

YES = """
Yes, it usually rains there. | That is so. | Sure. | Genau. | Tout à fait. | 确实如此 | はい、この場合は等しいです。 | 네, 이 경우 같습니다.
Yes, they match. | Yes, in this case. | Yes. The cat is often seen here.
Absolutely! | Definitely. | Of course. | Certainly | Exactly. | Indeed it is. | It does. | 当然 | もちろん | 물론입니다 | Natürlich
Bien sûr | Claro que sí | Конечно | بالتأكيد | Yes. If we compare the bars, A is taller. | Yes, even if it is small
Yes, because if the bar were shorter it would be below 5. | Yes, as if drawn with a ruler | So yes, it is. If not, the line would be red.
Yes (no exceptions).
No doubt, yes. | Yes, without a doubt | Yes, no doubt about it
The given statement is correct. | That is the case. | I think so. | Так и есть | The claim holds | Both statements are true
Yes | yes. | YES! | **Yes** | "Yes" | \\text{yes} | Y | Y. | True | TRUE | true. | Correct | Right. | Yeah | Yep | yes yes | ＹＥＳ
Yes, it is. | Yes, they are | Yes it is | Yes, that is correct. | Yes, because there is no cat in the picture.
Yes because it is not red.
Yes. There is no difference. | Yes, there is no difference. | Yes (no exceptions). | Yes, as no line is longer
Yes - the lines are not parallel
Yes, the two lines are parallel. | Yes; both have no error | Yes, not a single one is missing. | Yes, no doubt.
The statement is true. | The statement is correct. | That is right. | That's correct | It is true | This is true.
It's true that the lines are equal | The claim is accurate
It is not false. | That is not wrong. | It isn't incorrect | not false | not wrong | The statement is not false.
The answer is yes. | The answer is Yes | Answer: yes | Final answer: **yes** | My answer is yes | I think yes | I would say yes
The correct answer is yes. | It is true, so the answer is yes
Most likely yes | Probably yes | I believe so, yes | So yes. | Therefore, yes. | The lines are equal, so the answer is yes.
Definitely yes
是 | 是的 | 是的。 | 是的，图中有一只猫。 | 对 | 对的 | 正确 | 正确。 | 没错 | 答案：是 | 答案是：是 | 答案是正确 | 这是正确的
该说法是正确的 | 该说法正确 | 是的，因为没有猫。 | 是，图中没有猫 | 答案是是的
네 | 네. | 예 | 네, 맞습니다. | 네, 그렇습니다 | 맞습니다 | 맞아요 | 참 | 정답은 네입니다 | 네, 고양이가 없습니다 | 사실입니다
はい | はい。 | はい、そうです。 | はい、正しいです。 | 正しい | 正しいです | 答えははいです | ええ | はい、猫はいません。
Ja | Ja. | Ja, es gibt keine Katze im Bild. | Ja, das stimmt. | Das ist richtig. | Die Aussage ist wahr | Das stimmt | richtig
Die Antwort ist ja. | Das ist nicht falsch
Oui | Oui, c'est vrai. | Oui, il n'y a pas de chat | C'est vrai. | C'est correct | vrai | La réponse est oui. | Ce n'est pas faux.
Sí | sí. | Sí, es correcto. | Sí, porque no hay gato | Es verdadero | Es cierto | verdadero | La respuesta es sí. | No es falso. | Sim
Sim, é verdade | Sì | Sì, è vero
Да | Да, это так | Да, верно | Верно | правда | Ответ: да | Это правда | نعم | نعم، لا توجد قطة في الصورة. | صحيح | الإجابة هي نعم
هذا صحيح | نعم، هذا صحيح
"""
NO = """
No, if anything it is shorter. | No, usually it is blue. | Not at all. | Never. | By no means. | 绝不 | No, they do not match.
Absolutely not | Of course not. | Certainly not | 当然不 | No. If it were, the bar would be taller.
No, if it were true the bar would be longer
いいえ違います | 아니요 아닙니다 | No it is not | No, not at all | No: not visible
No, I doubt it | No, unlikely. | I disagree with the statement. It is false. | Je ne pense pas
This is not the case | That is not the case. | I don't think so | The statement does not hold | 没有 | 并不正确 | 아닙니다 | そうではない
Ce n'est pas le cas. | No es así
No | no. | NO! | \\textbf{No} | $\\text{no}$ | N | Nope | Nah | False | False. | Incorrect. | Wrong | "No"
No, it is not. | No, it is not true. | No, it isn't. | No, they are different. | No. The true length is the same for both lines.
No, the correct value is 5.
No, that is not correct. | No, that is incorrect. | No, because the right line is longer | No, this is false | No they differ
It is not true. | It is not correct. | It isn't true | That's not true. | That is not right. | Not true | not correct | Not right.
This isn't correct
The statement is false. | The claim is incorrect. | The statement is not true. | The statement is not correct. | The statement is wrong
That is false | It's false | It is wrong, since the line is longer
The answer is no. | Answer: No | The final answer is **No**. | I think no | I would say no. | Probably no | Most likely not true
So the answer is no. | Therefore, no | It is not. | It doesn't
否 | 不是 | 不是的 | 不对 | 不对。 | 不正确 | 错误 | 错 | 错误的 | 答案：否 | 答案是否 | 答案是否。 | 该说法错误 | 该说法是错误的
这不是正确的 | 这是错误的 | 不是，图中有猫 | 不对，因为图中有猫 | 否，两条线一样长
아니요 | 아니요. | 아니오 | 아뇨 | 아니요, 틀렸습니다. | 틀렸습니다 | 거짓 | 거짓입니다 | 맞지 않습니다 | 사실이 아닙니다
정답은 아니요입니다 | 아니요, 고양이가 있습니다
いいえ | いいえ。 | いいえ、違います。 | 違います | 間違い | 正しくありません | いいえ、正しくありません。 | 答えはいいえです
そうではありません
Nein | Nein. | Nein, das stimmt nicht. | Das stimmt nicht. | Das ist falsch. | Die Aussage ist falsch | Das ist nicht richtig
Die Aussage ist nicht wahr | falsch | Die Antwort ist nein
Non | Non, c'est faux. | Ce n'est pas vrai. | C'est faux. | Ce n'est pas correct | faux | La réponse est non. | Non, ce n'est pas vrai
No es correcto. | No es cierto. | No, es falso. | Es falso | falso | La respuesta es no. | No, no es correcto. | Não | Não é verdade
Não, é falso | Non è vero
Нет | Нет, это неверно | Неверно | Это не так | Это неправда | ложь | Ответ: нет | Это не верно | لا | لا، هذا غير صحيح. | خطأ
غير صحيح | الإجابة هي لا | هذا خطأ | ليس صحيحا
"""
NEITHER = """
Yes, depending on the scale | Yes, for the most part | Yes, more or less | Technically yes | Yes, with one exception | If so, yes
Yes, under the assumption that A holds | Ja, unter Umständen | 네, 빨간색이면 | はい、赤ければ | As if! | Definitely maybe
Yes if the scale is linear. | Yes, if you ignore the shadow. | Yes, unless the dog is hidden.
If the scale is linear, yes | No, unless it is blue
Yes, provided that the lines are straight. | Yes, assuming the scale starts at 0 | Yes, as long as they are parallel | Yes, in some cases
Only if x > 0: yes. | Usually yes | Yes - in theory | No if the picture is complete. | No, not if the scale is logarithmic
Ja, wenn die Linie gerade ist. | Ja, falls beide gleich sind | Oui, si l'on compte le chien | Sí, si es azul | Да, если это кошка
نعم، إذا كانت صحيحة | はい、もし直線なら | 네, 만약 직선이라면 | 是的,如果它是直线 | 除非是直线,是的 | Yeah, right. | Yes, right. As if.
Anything but yes | The opposite of yes | Yes, except for the left one | Ja, außer links
Absolutely, maybe | Of course, unless it is red
No is wrong | No is not the answer | Yes is not the answer | いいえではありません | はいではありません | 네는 아닙니다 | 아니요는 아닙니다
Saying no would be wrong | It is hard to call it false | No one is able to say | I would hesitate to say yes | لا أحد يعلم
Ich bezweifle, dass es falsch ist | сомневаюсь, что это неверно | I doubt it. | Yes, but I doubt it
It would be wrong to say yes. | It would be incorrect to answer yes | はいとは言えません | はいとは言えない | はいとは限らない
I doubt that it is true | I doubt it is true. | It is hard to say yes | I doubt yes | 예라고 할 수 없습니다 | 예라고 하기 어렵습니다
不能说是 | 不能回答是 | 很难说是 | on ne peut pas dire oui | Je ne dirais pas oui | no se puede decir que sí | no diría que sí
Ja kann man nicht sagen | Es wäre falsch, ja zu sagen | Ce serait faux de dire oui | Sería incorrecto decir que sí
нельзя сказать да | неверно говорить да | It used to be true | It was true once, not now
I question whether it is true | dudo que sea cierto | je doute que ce soit vrai | Ich bezweifle, dass es wahr ist
сомневаюсь, что это верно | 我怀疑是对的 | 正しいとは言えません
正しいか疑問です | 맞는지 의심스럽습니다 | I cannot say yes | I can't say yes
I would not say yes | I am not convinced that it is true | It is a mistake to say yes | It is unlikely to be true
It's hardly yes | Yes would be wrong | It is false that the answer is yes | The answer yes is wrong | Supposedly true
لا يمكن القول نعم | أشك أن نعم | I doubt that it is false. | No one can say. | No one can tell. | No one knows.
Nobody knows | Nobody can say | No one could say | No telling | There is no telling | There's no saying | No idea
No way to say | It would be wrong to say no. | It would be incorrect to answer no | いいえとは言えません | いいえとは言えない
아니요라고 할 수 없습니다 | 不能说不 | 不能说不是 | je doute que ce soit faux | dudo que sea falso | Es wäre falsch, nein zu sagen
Ce serait faux de dire non | Sería incorrecto decir que no | on ne peut pas dire non | nadie sabe | no se sabe
no se puede decir | 没人知道 | 没有人知道 | I question whether it is false | It is hard to say no | No one is sure
I deny that it is false | No se puede saber | no sabría decir | 誰も知りません | It used to be false | It is hard to say
I cannot say | It is unlikely to be false | нельзя сказать нет | никто не знает | Niemand weiß
Yes? No? | yes? | Yes for A, no for B | Yes in the first image, no in the second | it might be true | it may be false | could be yes
yes-no | no-one | 可能是 | 可能不是 | No lo sé | It is neither true nor false | not really
Yes and no | yes or no | yes/no | No, or maybe yes | neither yes nor no | Yes, no | no, yes | yes, not no | yes or incorrect
right or wrong | true or false | both yes and no
Maybe | Perhaps | maybe yes | It could be either. | It depends. | partly true | Partially correct | half true | sometimes true
not entirely true | not sure | Unsure | uncertain | unclear
I cannot tell from the image. | cannot be determined | I don't know | no idea | no answer | no clue | No way to tell | no information
No image is given | unknown | N/A
5 | north | yesterday | nothing | none | notation | the cat | not | I | is | It | nobody | knowledge | 1 | 0 | A | B
The answer is not no. | The answer is not yes. | not yes | not no | It is true and false. | Yes, it is not true. | No, it is true.
Yes, that is false | True, false
是否 | 是不是 | 对不对 | 可能 | 也许 | 无法判断 | 不确定 | 不知道 | 图中是猫 | 알 수 없습니다 | 아마도 | 모르겠습니다 | わかりません
不明 | はいかいいえ
Jein | vielleicht | Ja und nein | ja oder nein | peut-être | oui et non | oui ou non | sí y no | sí o no | quizás | No sé
No se puede determinar | да или нет | возможно | نعم ولا | ربما
the true length | the correct value is 5 | There is no cat in the picture. | the right line | correct answers only | right angle
the right side is longer
"""


def one_a_line(table: str) -> list[str]:
    return [answer.strip() for line in table.strip().splitlines() for answer in line.split(" | ") if answer.strip()]


@pytest.mark.parametrize("answer", one_a_line(YES))
def test_yes(answer: str) -> None:
    assert read_yes_no(answer) is True


@pytest.mark.parametrize("answer", one_a_line(NO))
def test_no(answer: str) -> None:
    assert read_yes_no(answer) is False


@pytest.mark.parametrize("answer", one_a_line(NEITHER))
def test_neither(answer: str) -> None:
    assert read_yes_no(answer) is None


@pytest.mark.parametrize("piece", ["yes ", "no ", "not ", "是", "true, ", "so yes ", "because ", "(", "and ", "no, "])
def test_time_is_bounded(piece: str) -> None:
    began = time.process_time()
    read_yes_no((piece * 2000)[:2000])
    assert time.process_time() - began < 0.15
