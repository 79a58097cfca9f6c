"""Options named by letters, by words and in sentences, in several languages; and what only looks like one of them."""

import time

import pytest
from verifier_cases import verify

from reward.options import read_gold_option, read_option

ANIMALS = ["cat", "dog", "bird", "fish"]
LENGTHS = ["5 cm", "12 cm", "20 cm", "25 cm"]
TRENDS = ["increases", "decreases", "stays the same", "cannot be determined"]

B_OF_ANIMALS = """
B best matches the description. | Only B fits the description | The description fits B
Of the four, B fits best. | B is the only one that fits, since A, C and D have no fur | B is best. | I think B fits. | B matches the picture
The dog fits best. | Among the options, B.
No doubt it is B | Without a doubt, B | B, no doubt | sans doute B | It is B without doubt | It's hard to tell, but B
- B | * B | > B | → B | => (B) | 1. B | <b>B</b> | Ans. B | L'option B | B ist die richtige Antwort. | - dog
B | B. | B) | (B) | [B] | b | (b) | B。 | 【B】 | “B” | "B" | 'B' | «B» | Ｂ | （B） | **B** | *B* | `B` | $B$ | \\text{B}
\\mathbf{B} | B! | <B>
**(B)** | "B." | \\boxed{B} | B: | B、 | (B). | Option B | option b | Choice B | Answer B | Letter B | answer: (B)
B (dog) | B) dog | (B) dog | B. dog | B: dog | B, dog | B，dog | B、dog | B - dog | B — dog | B = dog | B dog | dog (B) | dog, B
B. A dog | **B**: dog
(B) The dog. | B: "dog" | option B (dog) | Option B: dog | [B] dog | b) dog | dog [B] | B (a dog)
dog | Dog | DOG | a dog | the dog. | A dog | "dog" | dog! | **dog** | \\text{dog} | un dog
Option B is correct. | B is correct | B is the correct option. | B is right. | (B) is the right answer. | B is true
The answer is B because A is a cat. | The answer is (B), since (A) and (C) are wrong. | B, because it barks and A does not.
B because of its ears | B, as A and C have no collar | (B) since the animal barks
Answer: B | Final answer: B | The final answer is **B**. | The correct choice is B, dog. | The correct answer is option (B).
the correct answer is: (B) dog
I would choose option B. | I think B | I'd go with B. | I choose B | My answer is B. | It must be B | It's B | It is option B, the dog.
Probably B | Most likely B
I'm sure it is B. | So the answer is B. | Therefore, B. | Thus the correct option is (B). | The answer should be B | We choose B
The animal is a dog. | It is a dog. | It's a dog | The image shows a dog. | The animal in the image is a dog. | I can see a dog
There is a dog.
The picture shows the dog, which is option B. | Looking at the image, the answer is B. | The animal shown is option B.
B, not A | not A but B | not A, but B | Not A. B. | B and not C | B (not A) | A is wrong, B is correct | A and C are wrong, so B
It isn't A, it's B | B rather than A | B instead of A | B und nicht A | B, а не A | B而不是A
The answer is B. The animal has floppy ears. | No, it is B.
答案是B | 答案：B | 答案为B | 答案是 (B) | 选B | 选择B | 应选B | 故选：B。 | 故选B | 正确答案：B | 正确答案是B。 | B选项 | 选项B
选项B是正确的 | B是正确的 | 我选B | 我认为答案是B | B项
因此，正确答案是B。 | 所以选B | 答案是B，因为A是猫 | 因为A是猫，所以选B | 不是A，而是B | 選B | 正確答案是B
정답은 B입니다 | 정답은 B입니다. | 정답: B | 답은 B | B입니다 | B번 | 정답은 (B)입니다 | A가 아니라 B입니다
答えはB | 答えはBです | 答えはBです。 | 答え：B | 正解はBです | Bです | AではなくBです
Die Antwort ist B | Die richtige Antwort ist B. | Antwort B | Antwort: B | B ist richtig | Option B ist korrekt, weil A falsch ist
nicht A, sondern B | Ich wähle B
La respuesta es B | La respuesta correcta es la B | Respuesta: B | La opción B es correcta | la opción correcta es la b)
B porque A es un gato | no es A, sino B
La réponse est B | Réponse : (B) | La bonne réponse est B. | B est correct | B car A est un chat | A resposta é B
A resposta correta é B | La risposta è B
Ответ: B | Ответ — B | Правильный ответ: B | Ответ B, потому что A неверно | الجواب هو B | الإجابة هي B | الإجابة الصحيحة هي B
الإجابة: B
"""
NOT_B_OF_ANIMALS = """
B fits only partly | B fits, A fits | Only A fits; B matches too | B matches C | B fits if A is red | If B, then C | B almost fits
B fits worst. | B is the only one that does not fit | B fits less well than C | B fits, and so does C | Of the four, only B does not fit
B is only one of them | B if A is too small | If C is red, B | B fits, as does C | B is the only one I ruled out | B最不符合 | 只有B不符合
It is debatable whether it is B | Ich glaube nicht, dass es B ist | не думаю, что это B | I question B | I would question B
I doubt it is B | I question whether it is B | It used to be B | I doubt B | I doubt that it's B.
It is unlikely to be B | hardly B | It is hardly B | I am not convinced it is B | It might not be B
It is hard to say that it is B | It is difficult to say that it is B | Supposedly it is B | supposedly B
I deny that it is B | It was B before | It was once B | It was previously B | Formerly it was B | It is no longer B
Ich bezweifle, dass es B ist | Ich bezweifle es: B | je doute que ce soit B | Je doute que la réponse est B
dudo que sea B | Dudo que la respuesta es B | duvido que seja B | dubito che sia B | сомневаюсь, что это B
вряд ли это B | вряд ли B | 我怀疑是B | 很难说是B | 答案未必是B
疑わしい：B | Bとは言えません | Bかは疑問です | B인지 의심스럽습니다 | 정답은 B라고 하기 어렵다
أشك أن الجواب B | It would be wrong to say B | It would be wrong to say that it is B | No one can say it is B
No one can say that it is B | No one knows if it is B | I am not sure it is B | I'm not sure that it is B
I wonder whether it is B | I refuse to say B | It is doubtful that it is B | I doubt the answer is the dog
I doubt it is the dog | It used to be the dog | 曾经是B | 以前是B | 以前はBでした | 예전에는 B였습니다 | Früher war es B
avant c'était B | antes era B | solía ser B | раньше было B | It could never be B | It is improbable that it is B
I cannot confirm that it is B | I dispute that it is B
A | C | (C) | E | Z | BB | AB | 2 | II | b2 | beta
B) cat | (B) cat | B. cat | A) dog | A. dog | A, dog | A: dog | dog (C) | cat (B) | B - cat | B is a cat | The answer is B, cat
Option A: dog | B) wolf | B. hot dog | B, wolf
A or B | B or C | A and B | A, B | A/B | A & B | B/C | a cat and a dog | dog or cat | cat, dog | cat dog | A, B, C, D
Either B or D, hard to tell | either A or B | B, C | B; C | (A) (B) | A B
A oder B | A o B | A ou B | A или B | A und B | A和B | B和C | A或B | A、B | AかBです | A 또는 B | A와 B | أ أو B
not B | not (B) | It is not B. | B is not correct | B is wrong. | (B) is incorrect | B isn't the answer | anything but B
everything except B | all but B | neither A nor B | not a dog | not the dog
B is false | The answer is not B. | It can't be B | cannot be (B) | The answer is not "dog" | no es B | no B | nicht B | keine B
Antwort A ist richtig, nicht B. | pas B | ce n'est pas B | не B | ليس B
选项B是错误的 | 不是B | 不选B | B是错的 | B不正确 | 除了B | B가 아닙니다 | B가 아니라 A입니다 | Bではありません | BではなくAです
B以外
B? | B or something else | dog or wolf | hot dog | hot dog stand | The animal is a hot dog. | dogs | dog house | wolf
None of the above | all of the above | none | both | neither
I can't see the animal clearly. | cannot be determined | The answer is A because B is too big. | The answer is the opposite of B
It is next to B | similar to B | left of B | different from B | team B won
vitamin B | Figure B shows a cat | plan B failed | B^2 | B+C | 5B | not sure | A, not B | A is right, B is wrong | B is not right, A is
C, since B is too small | It is a cat; B is a dog
Because it is B, the answer is A | B looks like a dog, but the answer is C | B看起来像狗，但正确答案是C | 答案是A | 정답은 C입니다
The cat
"""


def one_a_line(table: str) -> list[str]:
    return [answer.strip() for line in table.strip().splitlines() for answer in line.split(" | ") if answer.strip()]


@pytest.mark.parametrize("answer", one_a_line(B_OF_ANIMALS))
def test_answers_that_name_an_option(answer: str) -> None:
    assert read_option(answer, ANIMALS) == 1


@pytest.mark.parametrize("answer", one_a_line(NOT_B_OF_ANIMALS))
def test_answers_that_do_not(answer: str) -> None:
    assert read_option(answer, ANIMALS) != 1


CASES: list[tuple[list[str] | None, str, list[str], list[str]]] = [
    # Units that are left out, converted, or another one.
    (
        LENGTHS, "C",
        ["20 cm", "20cm", "20", "x = 20 cm", "The length is 20 cm.", "20 centimeters", "C) 20", "(C) 20cm"],
        ["20 m", "2 cm", "20 cm^2", "15 cm", "5", "C. 25 cm", "C) 25", "200"],
    ),
    (["20 cm", "20 m", "30 cm"], "A", ["20 cm", "A"], ["20", "20 m", "B"]),
    (["20", "30", "40"], "A", ["20 cm", "20", "twenty"], ["30 cm", "20 or 30", "2"]),
    (
        ["1 m", "100 cm", "10 m", "1 km"], "100 cm",
        ["100 cm", "B", "100", "(B) 100 cm"],
        ["A", "1 m", "1000 mm", "A) 100 cm", "B) 1 m", "C"],
    ),
    (["45", "45%"], "B", ["45%", "45 %", "B"], ["45", "A", "B. 45"]),
    (["$5", "€5", "$6"], "A", ["$5", "A"], ["€5", "$6"]),
    (
        ["30°", "60°", "90°"], "B",
        ["60", "60°", "60 degrees", "60^\\circ", "(B) 60 degrees", "The angle is 60 degrees."],
        ["30°", "90 degrees", "The angle is not 60 degrees"],
    ),
    # Case, signs and spaces.
    (["CO", "Co", "C", "Cu"], "B", ["Co", "B", "B. Co", "(B) Co"], ["CO", "co", "C", "B. CO", "Cu"]),
    (["x<5", "x > 5", "x ≤ 5", "x≥5"], "D", ["x \\geq 5", "x >= 5", "x ≥ 5", "x≥5", "D: x ≥ 5"], ["x > 5", "D: x > 5", "x \\leq 5"]),
    (["x-1", "x - 10", "x+1", "x + 10"], "B", ["x-10", "x − 10", "$x-10$"], ["x+10", "x-1", "x-1 0"]),
    (["a-b", "a - b", "a+b", "b-a"], "A", ["A", "a-b"], ["a+b", "b-a", "a - b"]),
    (["1 1/2", "11/2", "3"], "A", ["1 1/2", "A"], ["11/2", "3"]),
    (["1,2", "12", "21"], "A", ["1,2", "1, 2", "A"], ["12", "21"]),
    (["12", "1/2", "21", "2"], "C", ["C) 21", "21", "twenty-one", "The answer is 21."], ["12", "2", "1/2", "-21", "The answer is 2."]),
    (["2", "3"], "A", ["2", "two", "A", "The answer is 2"], ["-2", "3/2", "2.5", "The answer is 2.5", "2^3"]),
    # Formulas.
    (
        ["\\frac{\\pi}{3}", "\\frac{\\pi}{6}", "\\frac{2\\pi}{3}", "\\pi"], "B",
        ["π/6", "\\pi/6", "B. \\frac{\\pi}{6}", "\\frac{\\pi}{6}", "\\dfrac{\\pi}{6}", "(B) π/6", "π/6 (B)"],
        ["\\pi", "π/3", "π", "B. π/3"],
    ),
    (["\\sqrt{2}", "2\\sqrt{2}", "\\sqrt{22}"], "B", ["2√2", "$2\\sqrt{2}$", "2·√2"], ["√2", "√22"]),
    (["↑", "↓"], "B", ["↓", "\\downarrow", "B"], ["↑"]),
    # Options that are letters or labels.
    (["(a)", "(b)", "(c)", "(d)"], "(c)", ["(c)", "c", "C", "(C)"], ["D", "(d)", "b"]),
    (["(c)", "(a)", "(b)"], "(c)", ["(c)", "c", "A"], ["(a)", "B", "C) b"]),
    (["C", "A", "B", "D"], "B", ["(C) B", "B", "C. B"], ["(B) A", "A", "D", "B) A"]),
    (["A", "B", "C", "D"], "B", ["B", "(B)", "B) B", "The answer is B."], ["A", "(B) A", "A or B"]),
    (["I", "II", "III", "IV"], "B", ["II", "(B) II", "B", "II only"], ["I", "III", "I and II"]),
    (["10", "20", "30", "40", "50", "60", "70", "80", "90", "100"], "C", ["I think C", "C. 30", "30"], ["I", "I think J", "C. 40"]),
    # Options that say yes, no, both, none or that nobody can tell.
    (
        ["Yes", "No"], "A",
        ["Yes, it is.", "Yes", "A", "A. Yes", "Yes, because there is no cat."],
        ["No", "A. No", "Yes and no", "B", "No, it is not.", "It is not true"],
    ),
    (["True", "False"], "B", ["False", "The statement is false.", "It is not true.", "B) False", "No"], ["True", "B) True", "not false"]),
    (["是", "否"], "B", ["否", "不是", "B. 否"], ["是", "是的", "B. 是"]),
    (["Yes", "No", "Cannot be determined"], "C", ["Cannot be determined", "C", "It cannot be determined."], ["Yes", "No", "C. No"]),
    (
        TRENDS, "B",
        ["decreases", "It decreases.", "B. decreases"],
        ["does not decrease", "increases, then decreases", "increases", "cannot be determined", "B. increases"],
    ),
    (
        TRENDS, "D",
        ["cannot be determined", "D. It cannot be determined.", "It cannot be determined", "The answer cannot be determined."],
        ["cannot", "B", "I cannot tell from the image."],
    ),
    (
        ["only A", "only B", "both A and B", "neither A nor B"], "C",
        ["both A and B", "C", "(C) both A and B"],
        ["A and B", "only A", "neither A nor B", "D", "C) only B"],
    ),
    (
        ["cat", "dog", "none of the above"], "C",
        ["None of the above", "none of the above.", "(C) None of the above"],
        ["cat", "none of the cats", "B"],
    ),
    (["left", "right"], "B", ["right", "The answer is right."], ["left", "The right answer is left", "not right"]),
    # Long options, articles, other scripts.
    (
        ["The mitochondria", "The nucleus", "The cell wall", "The ribosome"], "B",
        ["nucleus", "The part labelled is the nucleus.", "B: The nucleus"],
        ["cell wall", "the nucleus and the ribosome", "not the nucleus", "C: the nucleus"],
    ),
    (
        ["Spain", "France", "Italy"], "France",
        ["France", "B", "The country highlighted is France."],
        ["A", "A. France", "Italy", "France and Spain", "not France"],
    ),
    (["a dog", "a hot dog"], "B", ["a hot dog", "It is a hot dog."], ["a dog", "It is a dog"]),
    (
        ["猫", "狗", "鸟", "鱼"], "B",
        ["狗", "B. 狗", "图中的动物是狗。", "这是狗", "答案是B，狗"],
        ["B. 猫", "鸟", "狗或猫", "不是狗", "熊猫", "图中没有狗"],
    ),
    (
        ["서울", "부산", "대구", "인천"], "C",
        ["대구", "정답은 C, 대구입니다.", "대구입니다", "C. 대구"],
        ["서울", "C. 부산", "대구가 아닙니다", "대구 또는 서울"],
    ),
    (["赤", "青", "緑", "黄"], "A", ["赤", "答えは(A)赤です。", "赤です", "A. 赤"], ["赤または青", "赤ではありません", "青", "A. 青"]),
    (["أحمر", "أزرق", "أخضر", "أصفر"], "D", ["أصفر", "(D) أصفر", "الجواب هو أصفر"], ["أحمر", "(D) أحمر", "ليس أصفر"]),
    (["красный", "синий"], "B", ["синий", "Ответ: синий", "B) синий"], ["красный", "B) красный", "не синий"]),
    (["steigt", "fällt", "bleibt gleich"], "B", ["fällt", "B: fällt", "Es fällt."], ["steigt", "fällt nicht", "B: steigt"]),
    (
        ["chat", "chien", "oiseau"], "B",
        ["Il y a un chien.", "un chien", "C'est un chien", "B. chien"],
        ["A. chien", "Ce n'est pas un chien.", "chat"],
    ),
    (
        ["triángulo", "círculo", "cuadrado"], "C",
        ["un cuadrado", "La opción correcta es la c) cuadrado.", "Es un cuadrado."],
        ["círculo", "no es un cuadrado", "c) círculo"],
    ),
    # Duplicates, and options that are not known.
    (["4", "5", "5", "6"], "D", ["D", "6"], ["5", "B"]),
    (["4", "5", "5", "6"], "B", ["B"], ["5", "C"]),
    (
        None, "B",
        ["B", "(b)", "B. 12 cm", "B) dog", "The answer is B.", "答案是B", "B is correct"],
        ["C", "B or C", "not B", "B and C", "A) B", "12 cm"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("choices", "gold", "correct", "incorrect"), CASES)
def test_options(choices: list[str] | None, gold: str, correct: list[str], incorrect: list[str]) -> None:
    passed = [answer for answer in correct + incorrect if verify("choice", answer, gold, choices).correct]
    assert passed == correct


MANY = [f"city {name}" for name in "abcdefghijklmnopqrstuvwxyzäöü"]


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("AA", 26),
        ("(AB)", 27),
        ("city z", 25),
        ("Z", 25),
        ("The answer is AC.", 28),
        ("AD", None),
        ("AA) city ä", 26),
        ("AA) city z", None),
    ],
)
def test_more_than_26_options_have_two_letters(answer: str, option: int | None) -> None:
    assert read_option(answer, MANY) == option


@pytest.mark.parametrize(
    ("gold", "choices", "option"),
    [
        ("B", ["cat", "dog"], 1),
        ("dog", ["cat", "dog"], 1),
        ("B", ["C", "A", "B"], 2),
        ("(c)", ["(c)", "(a)", "(b)"], 0),
        ("100 cm", ["1 m", "100 cm"], 1),
        ("Co", ["CO", "Co"], 1),
        ("co", ["CO", "Co"], None),
        ("same", ["same", "same"], None),
        ("wolf", ["cat", "dog"], None),
        ("C", ["cat", "dog"], None),
    ],
)
def test_gold_options(gold: str, choices: list[str], option: int | None) -> None:
    assert read_gold_option(gold, choices) == option


PIECES = [
    "(",
    "A or ",
    "not ",
    "B) ",
    "the ",
    "because ",
    "是",
    "so B ",
    "a",
    "$\\frac{",
    "\\sqrt{",
    "1 ",
    "{",
    "cat, ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_bounded(piece: str) -> None:
    answer = (piece * 2000)[:2000]
    began = time.process_time()
    read_option(answer, ANIMALS)
    read_option(answer, [answer[:1000], answer[:900], *MANY])
    assert time.process_time() - began < 0.3
