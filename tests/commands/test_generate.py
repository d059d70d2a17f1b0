from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kiara = Callable[..., Any]
KEYS = {"text", "finish_reason", "prompt_tokens", "completion_tokens", "tokens_per_second"}


def test_stdout_is_the_continuation_and_nothing_else(kiara: Kiara, trained: Path) -> None:
    words = ("generate", "--prompt", "the cat", "--seed", "1", "--max-new-tokens", "30")
    ran = kiara(*words)
    assert ran.status == 0
    assert ran.err == ""
    made = json.loads(kiara(*words, "--json").out)
    assert ran.out == made["text"]
    assert made.keys() >= KEYS
    assert made["prompt_tokens"] == 7
    assert made["completion_tokens"] <= 30
    assert made["finish_reason"] in ("length", "stop")


def test_the_same_seed_gives_the_same_text_and_another_one_another(kiara: Kiara, trained: Path) -> None:
    texts = [kiara("generate", "-p", "the", "--seed", seed).out for seed in ("3", "3", "4")]
    assert texts[0] == texts[1] != texts[2]
    greedy = [kiara("generate", "-p", "the", "--greedy", "--seed", seed).out for seed in ("3", "4")]
    assert greedy[0] == greedy[1]


def test_every_way_to_give_a_prompt_means_the_same_and_loses_one_newline(kiara: Kiara, trained: Path) -> None:
    Path("prompt.txt").write_text("the cat\n")
    words = ("--seed", "1", "--max-new-tokens", "20")
    plain = kiara("generate", "-p", "the cat", *words)
    assert plain.out
    assert kiara("generate", "-p", "@prompt.txt", *words).out == plain.out
    assert kiara("generate", "-p", "-", *words, stdin="the cat\n").out == plain.out
    assert kiara("generate", "-p", "-", *words, stdin="the cat").out == plain.out
    two = json.loads(kiara("generate", "-p", "-", *words, "--json", stdin="the cat\n\n").out)
    assert two["prompt_tokens"] == 8


def test_an_empty_prompt_starts_a_document_and_an_empty_stdin_is_a_mistake(kiara: Kiara, trained: Path) -> None:
    assert kiara("generate", "--prompt", "", "--seed", "1").status == 0
    assert kiara("generate", "--seed", "1").out == kiara("generate", "--prompt", "", "--seed", "1").out
    assert "stdin is empty" in kiara("generate", "--prompt", "-").mistake


def test_n_gives_several_continuations_with_seeds_in_a_row(kiara: Kiara, trained: Path) -> None:
    words = ("-p", "the", "--max-new-tokens", "10", "--json")
    many = [json.loads(line)["text"] for line in kiara("generate", "-n", "3", "--seed", "5", *words).out.splitlines()]
    single = [json.loads(kiara("generate", "--seed", seed, *words).out)["text"] for seed in ("5", "6", "7")]
    assert many == single
    plain = kiara("generate", "-n", "3", "--seed", "5", "-p", "the", "--max-new-tokens", "10").out
    assert plain == "\n---\n".join(single)


def test_the_text_ends_before_a_stop(kiara: Kiara, trained: Path) -> None:
    words = ("generate", "-p", "the", "--seed", "1", "--max-new-tokens", "60")
    whole = kiara(*words).out
    stop = whole[10:12]
    made = json.loads(kiara(*words, "--stop", "never", "--stop", stop, "--json").out)
    assert made["text"] == whole[: whole.index(stop)]
    assert made["finish_reason"] == "stop"
    assert "holds an empty text" in kiara(*words, "--stop", "").mistake


def test_stats_go_to_stderr(kiara: Kiara, trained: Path) -> None:
    words = ["generate", "-p", "the", "--stats", "--max-new-tokens", "5", "runtime.native=false"]
    for more in ([], ["--json", "-n", "2"]):
        ran = kiara(*words, *more)
        assert "tokens/s" in ran.err
        assert "decoding: PyTorch's operators, because runtime.native=false" in ran.err
        assert "tokens/s" not in ran.out


def test_a_prompt_longer_than_the_context_is_continued(kiara: Kiara, trained: Path) -> None:
    ran = kiara("generate", "-p", "the cat sat on the mat. " * 20, "--max-new-tokens", "40", "--seed", "1")
    assert ran.status == 0
    assert 0 < len(ran.out) <= 40
    assert "of its 480 tokens the model read the last 16" in ran.err


@pytest.mark.parametrize("prompt", ["🐈‍⬛", "\x00", "é\u0301", "<|endoftext|>", "\udcff"])
def test_odd_prompts_are_continued(kiara: Kiara, trained: Path, prompt: str) -> None:
    assert kiara("generate", "-p", prompt, "--max-new-tokens", "5").status == 0


def test_bytes_that_are_no_utf8_are_read_from_stdin(kiara: Kiara, trained: Path) -> None:
    assert kiara("generate", "-p", "-", "--max-new-tokens", "5", stdin=b"the \xff\xfe cat").status == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--temperature", "-1"], "generate.temperature=-1"),
        (["--temperature", "nan"], "generate.temperature=nan"),
        (["--top-k", "0"], "generate.top_k=0"),
        (["--min-p", "1.5"], "generate.min_p=1.5"),
        (["--repetition-penalty", "0"], "generate.repetition_penalty=0"),
        (["--max-new-tokens", "0"], "generate.max_new_tokens=0"),
        (["--seed", "-1"], "generate.seed=-1"),
        (["-n", "0"], "-n"),
        (["--stop", ""], "generate.stop holds an empty text"),
        (["--top-p", "-0.1"], "generate.top_p=-0.1"),
        (["model.n_layers=3"], "model.n_layers=2"),
        (["-p", "@."], "cannot read"),
    ],
)
def test_a_setting_out_of_range_is_a_mistake(kiara: Kiara, trained: Path, words: list[str], reason: str) -> None:
    assert reason in kiara("generate", *words).mistake


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly_with_the_continuation_so_far(trained: Path) -> None:
    words = "generate -p the --seed 1 --max-new-tokens 3000 runtime.device=cpu runtime.dtype=fp32 runtime.threads=1"
    ran = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m kiara_cli.app {words} | head -c 20; echo ${{PIPESTATUS[0]}} >&2"],
        capture_output=True,
    )
    assert ran.stderr == b"0\n"
    assert len(ran.stdout) == 20


def test_a_file_of_prompts_is_answered_together_in_its_order(kiara: Kiara, trained: Path) -> None:
    lines = [{"prompt": "the cat"}, {"prompt": ""}, {"prompt": "the dog sat on the log. " * 3}]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    words = ("--seed", "5", "--max-new-tokens", "20", "--json")
    ran = kiara("generate", "--prompts", "prompts.jsonl", "-n", "2", *words)
    made = [json.loads(line) for line in ran.out.splitlines()]
    assert [one["index"] for one in made] == [0, 0, 1, 1, 2, 2]
    alone = [
        json.loads(line)["text"]
        for line_ in lines
        for line in kiara("generate", "-p", line_["prompt"], "-n", "2", *words).out.splitlines()
    ]
    assert [one["text"] for one in made] == alone


def test_prompts_may_hold_any_separator_be_an_array_or_in_another_encoding(kiara: Kiara, trained: Path) -> None:
    texts = ["the\u2028cat", "the\u0085dog", "hör auf"]
    rows = [{"prompt": text} for text in texts]
    words = ("--max-new-tokens", "3", "--greedy", "--prompts")
    Path("a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    plain = kiara("generate", *words, "a.jsonl")
    assert [json.loads(line)["prompt_tokens"] for line in plain.out.splitlines()] == list(map(len, texts))
    Path("a.json").write_text(json.dumps(rows, indent=1))
    Path("a.ndjson").write_bytes(Path("a.jsonl").read_text().encode("utf-16"))
    found = [
        [json.loads(line)["text"] for line in kiara("generate", *words, name).out.splitlines()]
        for name in ("a.json", "a.ndjson", "a.jsonl")
    ]
    assert found[0] == found[1] == found[2]
    Path("a.jsonl").write_bytes(b'{"prompt": "h\xf6r auf"}\n')
    latin = kiara("generate", *words, "a.jsonl")
    assert json.loads(latin.out)["prompt_tokens"] == 7
    assert latin.err.startswith("warning: read as Windows-1252")
    Path("p.txt").write_bytes("hör auf\n".encode("latin-1"))
    assert "warning: read as Windows-1252" in kiara("generate", "-p", "@p.txt", *words[:3]).err
    assert "warning: read as Windows-1252" in kiara("generate", "-p", "-", *words[:3], stdin=b"h\xf6r auf").err


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"prompt": NaN}', '{"prompt": "\\ud800"}', '{"prompt": 5}', "9" * 5000, '"text"']
)
def test_a_line_that_is_no_prompt_is_one_line_with_its_number(kiara: Kiara, line: str) -> None:
    Path("a.jsonl").write_text('{"prompt": "x"}\n\n' + line)
    assert "error: a.jsonl, line 3 " in kiara("generate", "--prompts", "a.jsonl").mistake


@pytest.mark.parametrize("content", ["", "hello\n", '{"prompt": 1}\n', '{"text": "a"}\n', "[]\n"])
def test_a_file_without_prompts_is_a_mistake(kiara: Kiara, trained: Path, content: str) -> None:
    Path("prompts.jsonl").write_text(content)
    assert "prompts.jsonl" in kiara("generate", "--prompts", "prompts.jsonl").mistake


def test_a_setting_that_contradicts_the_checkpoint_is_said_to_do_so_whatever_else_it_would_break(
    kiara: Kiara, trained: Path
) -> None:
    line = kiara("generate", "-p", "the", "model.emb_dim=66").mistake
    assert line == (
        "error: model.emb_dim=66: but checkpoints/best.pt was made with model.emb_dim=32; "
        "leave it out, or train a new model with it"
    )
    assert kiara("generate", "-p", "the", "--max-new-tokens", "2", "model.emb_dim=32").status == 0


def test_json_of_a_schema_and_nothing_else_is_written(kiara: Kiara, trained: Path) -> None:
    Path("schema.json").write_text('{"enum": [true, false, null]}')  # what the alphabet of this model can write
    words = ("generate", "-p", "the", "--json-schema", "schema.json", "--seed", "1")
    ran = kiara(*words)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out in ("true", "false", "null")
    rows = [json.loads(line) for line in kiara(*words, "-n", "3", "--json").out.splitlines()]
    assert rows[0]["text"] == ran.out
    assert {row["finish_reason"] for row in rows} == {"stop"}
    cut = kiara(*words, "--max-new-tokens", "2")
    assert "the JSON is cut off after 2 tokens, and not valid" in cut.err


@pytest.mark.parametrize(
    ("schema", "more", "said"),
    [
        (None, (), "error: cannot read the JSON schema schema.json: No such file or directory; "),
        ("{", (), "error: schema.json holds no JSON: line 1: "),
        ("[" * 100_000, (), "error: schema.json holds no JSON: "),
        ("[]", (), "error: a JSON schema is an object; "),
        ('{"type": "object"}', (), "nothing that could come next"),
        ('{"const": "x"}', (), "cannot write"),
        ('{"enum": [true]}', ("--stop", "u"), "error: --json-schema, and texts to stop before"),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_line(
    kiara: Kiara, trained: Path, schema: str | None, more: tuple[str, ...], said: str
) -> None:
    if schema is not None:
        Path("schema.json").write_text(schema)
    assert said in kiara("generate", "-p", "the", "--json-schema", "schema.json", *more).mistake
