"""Whatever a model samples under a schema is JSON of that schema, or is said to be cut off."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, GenerationRequest
from kiara_cli.core.generate.grammar import ANY_OBJECT, SCHEMA_BYTES, Grammars
from kiara_cli.core.generate.text import Completion, complete_all, generate_text, make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.core.tokenizer.word import WordTokenizer
from kiara_cli.errors import KiaraError

TEXT = '{"name": "Ada", "age": 36, "likes": ["tea", "naïve 漢"], "ok": true}\n{"a":null,"b":-1.5e3}\n' * 30
TOKENIZERS = {
    "char": CharTokenizer.ascii(),
    "bpe": BPETokenizer.fit([TEXT], 320),
    "word": WordTokenizer.fit([TEXT], 400),
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["tea", "ok"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
LONG = GenerateConfig(max_new_tokens=400, seed=1)


@dataclasses.dataclass
class Tiny:
    tokenizer: Tokenizer
    engine: Engine
    grammars: Grammars

    def write(self, schema: Any, config: GenerateConfig = LONG, prompt: str = "a") -> Completion:
        grammar = self.grammars.compile(schema)
        *_, done = generate_text(self.engine, self.tokenizer, prompt, config, grammar=grammar)
        assert isinstance(done, Completion)
        return done


def tiny(tokenizer: Tokenizer) -> Tiny:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=448, context_length=64, emb_dim=32, n_heads=2, n_layers=1)
    engine = make_engine(Transformer(config), tokenizer, Runtime(torch.device("cpu"), "fp32", 1))
    return Tiny(tokenizer, engine, Grammars(tokenizer, engine.forbidden))


MODELS = {kind: tiny(tokenizer) for kind, tokenizer in TOKENIZERS.items()}


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    numbers = st.integers(-40, 40)
    return st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "date"}]),
        st.builds(lambda a: {"type": "string", "minLength": a, "maxLength": a + 2}, st.integers(0, 3)),
        st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)}, numbers, numbers),
        st.builds(lambda a, b: {"type": "number", "minimum": min(a, b), "maximum": max(a, b) + 1}, numbers, numbers),
        st.lists(st.sampled_from(["a", "b c", 1, None, False]), min_size=1).map(lambda values: {"enum": values}),
        st.sampled_from([{"type": "string", "pattern": "^[a-c]{1,3}-[0-9]$"}, {"const": {"a": [1, "x"]}}]),
    )


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    def arrays(inner: Any) -> Any:
        return st.builds(
            lambda items, a, b: {"type": "array", "items": items, "minItems": a, "maxItems": a + b},
            inner, st.integers(0, 2), st.integers(0, 2),
        )  # fmt: skip

    def objects(inner: Any) -> Any:
        return st.builds(
            lambda parts, needed: {
                "type": "object", "properties": parts, "required": sorted(set(parts) & needed),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["name", "age", "a b", "x_1"]), inner, max_size=3),
            st.sets(st.sampled_from(["name", "age", "x_1"])),
        )  # fmt: skip

    def choices(inner: Any) -> Any:
        return st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several})

    return st.recursive(leaves(), lambda of: st.one_of(arrays(of), objects(of), choices(of)), max_leaves=5)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@given(schema=schemas(), seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 1.0, 3.0]))
@settings(max_examples=60)
def test_whatever_is_sampled_is_json_of_the_schema(kind: str, schema: Any, seed: int, temperature: float) -> None:
    done = MODELS[kind].write(schema, GenerateConfig(max_new_tokens=400, seed=seed, temperature=temperature))
    if done.finish_reason == "length":
        assert '"number"' in json.dumps(schema)  # which may have any number of digits
    else:
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(json.loads(done.text))


def test_words_are_put_together_to_json() -> None:
    done = MODELS["word"].write(PERSON | {"properties": PERSON["properties"] | {"age": {"enum": [36]}}})
    assert done.finish_reason == "stop"
    assert json.loads(done.text)["age"] == 36


def test_any_object_is_an_object_or_is_cut_off() -> None:
    ends = set()
    for seed in range(8):
        done = MODELS["bpe"].write(ANY_OBJECT, GenerateConfig(max_new_tokens=100, temperature=2.0, seed=seed))
        ends.add(done.finish_reason)
        if done.finish_reason == "stop":
            assert isinstance(json.loads(done.text), dict)
    assert ends == {"stop", "length"}


def test_requests_with_and_without_a_grammar_do_not_touch_each_other() -> None:
    model = MODELS["bpe"]
    plain = GenerateConfig(max_new_tokens=30, seed=3)
    (alone,) = (done for _, done in complete_all(model.engine, model.tokenizer, [("a", plain)]))
    grammar = model.grammars.compile(PERSON)
    asked = [
        GenerationRequest([65], plain, model.tokenizer.ends),
        *(GenerationRequest([65], LONG, model.tokenizer.ends, grammar=grammar, logprobs=2) for _ in range(2)),
    ]
    free, first, second = map(model.engine.submit, asked)
    while model.engine.busy:
        model.engine.step()
    said = [model.tokenizer.token_bytes(token.id) for token in free.events]
    assert b"".join(said).decode(errors="replace") == alone.text
    assert first.ids == second.ids  # the same seed
    assert jsonschema_rs.is_valid(PERSON, json.loads(b"".join(map(model.tokenizer.token_bytes, first.ids[1:]))))
    # probabilities are the model's own: what the grammar forbids has one too
    assert any(id_ not in first.ids for token in first.events for id_, _ in token.top)


def test_a_seed_gives_the_same_text_with_drafts_and_penalties_too() -> None:
    config = dataclasses.replace(LONG, temperature=1.5, repetition_penalty=1.3, no_repeat_ngram=1)
    texts = {MODELS["bpe"].write(PERSON, dataclasses.replace(config, speculate=n), '{"name": "').text for n in (0, 4)}
    assert len(texts) == 1
    assert jsonschema_rs.is_valid(PERSON, json.loads(texts.pop()))


def test_a_text_that_goes_on_in_another_request_goes_on_with_its_grammar() -> None:
    model = MODELS["bpe"]
    grammar, ends = model.grammars.compile(PERSON), model.tokenizer.ends
    short = dataclasses.replace(LONG, max_new_tokens=5)
    asked = GenerationRequest([1], short, ends, grammar=grammar)
    begun = [token.id for token in model.engine.follow(model.engine.submit(asked))]
    more = GenerationRequest([1, *begun], LONG, ends, grammar=grammar, resumed=begun)
    ids = [*begun, *(token.id for token in model.engine.follow(model.engine.submit(more)))]
    assert jsonschema_rs.is_valid(PERSON, json.loads(b"".join(map(model.tokenizer.token_bytes, ids))))


def test_what_has_no_bound_ends_at_max_new_tokens_and_does_not_claim_to_be_whole() -> None:
    done = MODELS["char"].write({"type": "string", "minLength": 50}, GenerateConfig(max_new_tokens=20))
    assert done.finish_reason == "length"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {}}, "'not', which is not supported"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "'uniqueItems'"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "'oneOf' with choices that may both hold"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "'exclusiveMinimum' so near"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"$ref": "#"}, "no JSON is of this schema"),
        ({"$ref": "https://example.com/a.json"}, "does not fetch"),
        ({"enum": []}, "anyOf is empty"),
        ("person", "a JSON schema is an object"),
        ({"enum": ["x" * SCHEMA_BYTES]}, "bytes long"),
        (json.loads('{"items":' * 200 + "{}" + "}" * 200), "too large"),
        ({"allOf": [{"anyOf": [{"properties": {f"{c}{i}": {}}} for c in "ab"]} for i in range(14)]}, "too large"),
        ({"const": float("nan")}, "NaN"),
        ({"type": "integer", "minimum": 10**400}, "cannot be used"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_schema_that_is_not_supported_is_refused_in_one_line(schema: Any, said: str) -> None:
    with pytest.raises(KiaraError, match=re.escape(said)) as refused:
        MODELS["bpe"].grammars.compile(schema)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_what_a_tokenizer_cannot_write_is_said_before_anything_is_written() -> None:
    with pytest.raises(KiaraError, match='cannot write "größe"'):
        MODELS["char"].grammars.compile({"type": "object", "properties": {"größe": {"type": "integer"}}})
    with pytest.raises(KiaraError, match='cannot write "unheard"'):
        MODELS["word"].grammars.compile({"enum": ["tea", "unheard"]})


def test_a_text_that_cannot_go_on_ends_with_an_error_and_others_do_not() -> None:
    model = tiny(CharTokenizer('"ab'))  # no digit, no escape
    grammar = model.grammars.compile({"type": "string", "pattern": "^[ab]c$"})
    stuck = model.engine.submit(GenerationRequest([0], LONG, grammar=grammar))
    other = model.engine.submit(GenerationRequest([0], dataclasses.replace(LONG, max_new_tokens=9)))
    while model.engine.busy:
        model.engine.step()
    assert "nothing that could come next" in str(stuck.events[-1].error)
    assert other.events[-1].finish_reason == "length"


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(KiaraError, match=re.escape("pip install 'kiara-slm[json]'")):
        tiny(TOKENIZERS["char"]).grammars.compile(PERSON)
