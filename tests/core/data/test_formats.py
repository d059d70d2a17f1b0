"""Conversations, instructions and preferences in the formats in which people keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from kiara_cli.core.data.encoding import encode_document
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.data.slices import Reading
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import END, encode_conversation, target_mask
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

ASKED, SAID = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
SYSTEM = {"role": "system", "content": "Be short."}
# fmt: off
FORMATS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "OpenAI": ({"messages": [SYSTEM, ASKED, SAID]}, [SYSTEM, ASKED, SAID]),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "Where?"}, {"from": "GPT", "value": "Here."}]},
                 [ASKED, SAID]),
    "ShareGPT with a system text": (
        {"conversations": [{"from": "system", "value": "Be short."}, {"from": "human", "value": "Where?"}]},
        [SYSTEM, ASKED]),
    "conversations with roles": ({"conversations": [ASKED, SAID], "system": "Be short."}, [SYSTEM, ASKED, SAID]),
    "Alpaca": ({"instruction": "Where?", "input": "", "output": "Here."}, [ASKED, SAID]),
    "Alpaca with an input": ({"instruction": "Is it so?", "input": "A fox.", "output": "Here."},
                             [{"role": "user", "content": "Is it so?\n\nA fox."}, SAID]),
    "prompt and completion": ({"prompt": "Where?", "completion": "Here."}, [ASKED, SAID]),
    "prompt and completion as messages": ({"prompt": [SYSTEM, ASKED], "completion": [SAID]}, [SYSTEM, ASKED, SAID]),
    "prompt and response": ({"prompt": "Where?", "response": "Here."}, [ASKED, SAID]),
    "question and answer": ({"question": "Where?", "answer": "Here.", "id": 3}, [ASKED, SAID]),
    "input and output": ({"input": "Where?", "output": "Here."}, [ASKED, SAID]),
}
PAIR = {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}
PAIRS = {
    "texts": PAIR,
    "messages": {"messages": [ASKED], "chosen": "Here.", "rejected": "No."},
    "replies as messages": PAIR | {"chosen": [SAID], "rejected": [{"role": "assistant", "content": "No."}]},
    "whole conversations": {"chosen": [ASKED, SAID], "rejected": [ASKED, {"role": "assistant", "content": "No."}]},
    "whole conversations beside their prompt": {
        "prompt": "Where?", "chosen": [ASKED, SAID], "rejected": [ASKED, {"role": "assistant", "content": "No."}]},
}
WRONG = {
    "a role": ({"messages": [{"role": "narrator", "content": "x"}]}, "a message needs a role"),
    "a speaker": ({"conversations": [{"from": "narrator", "value": "x"}]}, "a turn from 'narrator'; known are"),
    "no turns": ({"conversations": []}, "conversations is no list of turns"),
    "an empty reply": ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "the assistant's reply is"),
    "an empty output": ({"instruction": "x", "output": ""}, "the assistant's reply is"),
    "an empty request": ({"prompt": " ", "completion": "x"}, "prompt is empty"),
    "a number": ({"prompt": "x", "completion": 3}, "completion is not a text"),
    "an empty side": (PAIR | {"rejected": ""}, "rejected is empty"),
    "equal sides": (PAIR | {"rejected": "Here."}, "chosen and rejected are the same"),
    "no request": ({"chosen": "x", "rejected": "y"}, "are not two replies to one request"),
}
# fmt: on


def write(name: str, *records: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


@pytest.mark.parametrize(("record", "expected"), FORMATS.values(), ids=FORMATS)
def test_every_format_is_read_as_the_conversation_it_means(
    record: dict[str, Any], expected: list[dict[str, str]]
) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([record]), "a.parquet")
    for name in (write("a.jsonl", record), "a.parquet"):
        (document,) = read_documents(name)
        assert list(document.messages) == expected
        assert document.rejected is None


@pytest.mark.parametrize("record", PAIRS.values(), ids=PAIRS)
def test_a_pair_is_two_conversations_that_differ_in_their_last_reply(record: dict[str, Any]) -> None:
    (document,) = read_documents(write("a.jsonl", record))
    assert (list(document.messages), document.rejected) == ([ASKED, SAID], "No.")
    tokenizer = CharTokenizer.fit(["Where? Here. No."])
    no = {"role": "assistant", "content": "No."}
    both = [encode_conversation([ASKED, said], tokenizer)[0] for said in (SAID, no)]
    assert encode_document(document, tokenizer).tolist() == [*both[0], *both[1]]


@pytest.mark.parametrize(("record", "cause"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_learned_is_one_line_with_its_number(record: dict[str, Any], cause: str) -> None:
    write("a.jsonl", FORMATS["Alpaca"][0], record)
    with pytest.raises(KiaraError) as caught:
        read_documents("a.jsonl")
    assert str(caught.value).startswith("a.jsonl, line 2: ")
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
    reading = Reading(skip_bad=True)
    assert len(read_documents("a.jsonl", reading)) == 1
    assert reading.skipped == 1


CSV = """Question,Answer,Note
Where?,"Here, at
the ""river"".",x

Who?,A fox.,
"""


def test_a_table_as_text_is_read_by_the_names_of_its_columns() -> None:
    Path("a.csv").write_text("\ufeff" + CSV.replace("\n", "\r\n"))
    talks = [[turn["content"] for turn in document.messages] for document in read_documents("a.csv")]
    assert talks == [["Where?", 'Here, at\nthe "river".'], ["Who?", "A fox."]]
    Path("b.tsv").write_text("text\tn\nA fox.\t1\n")
    assert [document.text for document in read_documents("b.tsv")] == ["A fox."]
    Path("c.csv").write_text("Frage;Antwort\nWo?;Hier, am Fluss.\n", encoding="latin-1")
    with pytest.raises(KiaraError, match=r"c.csv has no field 'text' \(it has: Frage, Antwort\).*data.prompt_field"):
        read_documents("c.csv")
    (document,) = read_documents("c.csv", Reading(prompt_field="Frage", reply_field="Antwort"))
    assert [turn["content"] for turn in document.messages] == ["Wo?", "Hier, am Fluss."]


@pytest.mark.parametrize(
    ("rows", "cause"),
    {
        "cells": ("Where?,Here.,x\nWho?\n", r"a.csv, line 4 has 1 cells, the first line names 3 columns"),
        "quote": ('Where?,Here.,x\n"Who?,x,y\n', "a.csv, line 4 is no row of a table"),
        "reply": ("Where?,Here.,x\nWho?,,x\n", "a.csv, line 4: the assistant's reply is empty"),
    }.values(),
)
def test_a_row_that_is_none_is_one_line_with_its_number(rows: str, cause: str) -> None:
    Path("a.csv").write_text("question,answer,note\nWhere?,Here.,x\n" + rows)
    with pytest.raises(KiaraError, match=cause):
        read_documents("a.csv")
    assert len(read_documents("a.csv", Reading(skip_bad=True))) == 2


def test_a_field_that_is_named_is_meant_whatever_else_a_record_holds() -> None:
    write("a.jsonl", FORMATS["Alpaca"][0])
    assert [document.text for document in read_documents("a.jsonl", Reading("output"))] == ["Here."]
    write("a.jsonl", FORMATS["Alpaca"][0] | {"text": "Below is an instruction."})
    (document,) = read_documents("a.jsonl", Reading(prompt_field="instruction", reply_field="output"))
    assert list(document.messages) == [ASKED, SAID]


def test_prompt_and_reply_are_tokenized_apart_with_one_beginning_and_the_end_learned() -> None:
    tokenizer = CharTokenizer.fit(["Where? Here."])
    (document,) = read_documents(write("a.jsonl", FORMATS["prompt and completion"][0]))
    ids = encode_document(document, tokenizer)
    marks = tokenizer.specials
    parts = [marks["<|user|>"], *tokenizer.encode("Where?"), marks[END], marks["<|assistant|>"]]
    assert ids.tolist() == [marks[END_OF_TEXT], *parts, *tokenizer.encode("Here."), marks[END]]
    assert ids.tolist().count(marks[END_OF_TEXT]) == 1
    learned = ids[target_mask(ids, marks)].tolist()
    assert learned == [*tokenizer.encode("Here."), marks[END]], "the reply and its end, and nothing else"
