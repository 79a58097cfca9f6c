"""The checker of configs: dataclasses and pydantic models are held to the same types, in the same sentences."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import Field, field_validator
from transformers import TrainingArguments

from configs.errors import ConfigError
from configs.schema import KeyVariable, ModelName, StrictModel, check_keys, parse_config


class Schedule(Enum):
    COSINE = "cosine"
    LINEAR = "linear"


@dataclass
class Inner:
    steps: int = 1


@dataclass
class Outer:
    kind: Literal["a", "b"] = "a"
    rate: float = 0.1
    inner: Inner = field(default_factory=Inner)
    names: list[str] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    schedule: Schedule | str = Schedule.COSINE
    number: int = 0
    api_key_env: str | None = None


class InnerModel(StrictModel):
    steps: int = 1


class OuterModel(StrictModel):
    kind: Literal["a", "b"] = "a"
    rate: float = 0.1
    inner: InnerModel = InnerModel()
    names: list[str] | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    schedule: Schedule | str = Schedule.COSINE
    number: int = 0
    api_key_env: KeyVariable = None


BOTH = pytest.mark.parametrize("cls", [Outer, OuterModel])
GOOD = {"kind": "b", "inner": {"steps": 2}, "names": ["x"], "weights": {"y": 1}, "schedule": "linear"}


@BOTH
def test_good_values_pass_and_become_an_instance(cls: type) -> None:
    assert check_keys(GOOD, cls) == GOOD
    made = parse_config(cls, GOOD)
    assert (made.kind, made.inner.steps, made.names, made.weights) == ("b", 2, ["x"], {"y": 1})


@BOTH
@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"kynd": "a"}, "Unknown key 'kynd' in c.yaml; did you mean 'kind'?"),
        (
            {"zzz": 1},
            "Unknown key 'zzz' in c.yaml; known are kind, rate, inner, names, weights, schedule, number, api_",
        ),
        ({"inner": {"step": 2}}, "Unknown key 'inner.step' in c.yaml; did you mean 'steps'?"),
        ({"kind": "c"}, "'kind' in c.yaml: unknown value 'c'; known are a, b."),
        ({"kind": 1}, "'kind' in c.yaml: wanted one of a, b, found 1 (a whole number)."),
        ({"inner": 3}, "'inner' in c.yaml: wanted keys and values, found 3 (a whole number)."),
        ({"inner": {"steps": "2"}}, "'inner.steps' in c.yaml: wanted a whole number, found '2' (text)."),
        ({"names": [1]}, "'names[0]' in c.yaml: wanted text, found 1 (a whole number)."),
        ({"names": "x"}, "'names' in c.yaml: wanted a list of text or null, found 'x' (text)."),
        ({"weights": {"y": "z"}}, "'weights.y' in c.yaml: wanted a number, found 'z' (text)."),
        ({"schedule": "cosin"}, "'schedule' in c.yaml: unknown value 'cosin'; did you mean 'cosine'?"),
        ({"number": True}, "'number' in c.yaml: wanted a whole number, found True (true or false)."),
        ({"number": 1.0}, "'number' in c.yaml: wanted a whole number, found 1.0 (a number)."),
        ({"number": None}, "'number' in c.yaml: wanted a whole number, found nothing."),
        ({"rate": True}, "'rate' in c.yaml: wanted a number, found True (true or false)."),
        ({"rate": [1] * 50}, "..."),
    ],
)
def test_the_same_sentence_whatever_states_the_types(cls: type, bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(cls, bad, "c.yaml")
    assert sentence in str(error.value) and len(str(error.value)) < 160
    with pytest.raises(ConfigError):
        check_keys(bad, cls, where="c.yaml")


@BOTH
def test_a_number_that_yaml_reads_as_text_is_a_number(cls: type) -> None:
    assert parse_config(cls, {"rate": "1e-4"}).rate == 1e-4
    assert parse_config(cls, {"weights": {"y": "2e1"}}).weights == {"y": 20.0}


@BOTH
def test_a_key_given_for_its_variable_is_not_repeated(cls: type) -> None:
    for value in ("sk-123secret", ["sk-123secret"]):
        with pytest.raises(ConfigError) as error:
            parse_config(cls, {"api_key_env": value})
        assert "secret" not in str(error.value)


@dataclass
class Needed:
    kind: Literal["a", "b"]


@dataclass
class HoldsNeeded:
    one: Needed
    many: dict[str, Needed] = field(default_factory=dict)


class Limits(StrictModel):
    model: ModelName
    n: int = Field(default=1, ge=1)
    pair: list[int] = Field(default=[1, 2], min_length=2)
    even: int = 2

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("it must be even")
        return value


@pytest.mark.parametrize(
    ("cls", "data", "sentence"),
    [
        (HoldsNeeded, {"one": {}}, "The key 'one.kind' is missing in c.yaml."),
        (HoldsNeeded, {"one": {"kind": "a"}, "many": {"x": {}}}, "The key 'many.x.kind' is missing in c.yaml."),
        (Needed, {}, "The key 'kind' is missing in c.yaml."),
        (Limits, {}, "The key 'model' is missing in c.yaml."),
        (Limits, {"mdoel": "tiny"}, "Unknown key 'mdoel' in c.yaml; did you mean 'model'?"),
        (
            Limits,
            {"model": "tiny", "n": 0},
            "'n' in c.yaml: wanted a value greater than or equal to 1, found 0 (a whole number).",
        ),
        (Limits, {"model": "tiny", "pair": [1]}, "'pair' in c.yaml: list should have at least 2 items"),
        (Limits, {"model": "tiny", "even": 3}, "c.yaml: 'even': it must be even."),
        (Limits, {"model": "openai:x"}, "'openai:x' does not name a served model"),
    ],
)
def test_what_only_the_class_can_refuse(cls: type, data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(cls, data, "c.yaml")
    assert sentence in str(error.value)


@pytest.mark.parametrize("key", ["eval_strategy", "save_strategy", "logging_strategy"])
def test_the_word_no_of_yaml_is_the_strategy_of_that_name(key: str) -> None:
    assert check_keys({key: False}, TrainingArguments) == {key: "no"}
    with pytest.raises(ConfigError, match=key):
        check_keys({key: True}, TrainingArguments)


def test_several_classes_share_one_mapping() -> None:
    assert check_keys({"steps": 3, "model": "tiny"}, Inner, Limits) == {"steps": 3, "model": "tiny"}
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        check_keys({"stepz": 3}, Inner, Limits)


def test_configs_in_a_mapping_become_instances() -> None:
    assert parse_config(HoldsNeeded, {"one": {"kind": "a"}, "many": {"x": {"kind": "b"}}}).many == {"x": Needed("b")}


def test_an_instance_stays_as_it_is() -> None:
    inner = Inner(7)
    assert parse_config(Outer, {"inner": inner}).inner is inner


def test_a_value_of_any_size_is_described_in_a_few_words() -> None:
    value: Any = "x"
    for _ in range(12):
        value = [value] * 9  # 282 billion values in all
    for odd in (value, {"a": value}, "x" * 10**7, list(range(10**6))):
        with pytest.raises(ConfigError) as error:
            check_keys({"seed": odd}, TrainingArguments)
        assert "'seed' in the config: wanted a whole number, found" in str(error.value) and len(str(error.value)) < 200
    with pytest.raises(ConfigError, match="wanted true or false, found a very long number"):
        check_keys({"use_cpu": 16**9000}, TrainingArguments)
