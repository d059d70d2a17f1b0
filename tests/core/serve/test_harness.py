"""lm-evaluation-harness on a local task: in process and over HTTP it sees what an independent computation sees."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kiara_cli.config.load import to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.generate.opened import Opened
from kiara_cli.errors import KiaraError

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra eval"),
    pytest.mark.filterwarnings("ignore"),
]
DOCUMENTS = [
    {"question": "Once upon a time a fox met a", "choices": ["hen", "good day", "time a hen"], "answer": 0},
    {"question": "The fox said ", "choices": ["good day", "héllo 🦊"], "answer": 0},
    {"question": "", "choices": ["Once upon", "The hen said"], "answer": 1},
]
CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: foxes.jsonl}}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
"""
GREEDY = 'generation_kwargs: {until: ["\\n"], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n'


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/foxes.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
    for name, kind, text, target, more in (
        ("foxes", "multiple_choice", "{{question}}", "{{answer}}", 'doc_to_choice: "{{choices}}"\n'),
        ("whole", "loglikelihood_rolling", "", "{{question}} {{choices[1]}}", ""),
        ("greedy", "generate_until", "{{question}}The", "{{choices[0]}}", GREEDY),
    ):
        text = CHOICES.format(name=name, kind=kind, text=text, target=target)
        (tmp_path / f"tasks/{name}.yaml").write_text(text + more, encoding="utf-8")


def opened_of(up: Any) -> Opened:
    served = up.served
    config = Config(model=served.engine.config)
    checkpoint = Checkpoint({}, to_mapping(config), served.tokenizer.state(), {}, {})
    return Opened(checkpoint, config, served.engine.original, served.tokenizer, served.engine.runtime)


def by_hand(up: Any, context: str, continuation: str) -> float:
    """Score a continuation id by id; the harness puts a space before each choice."""
    tokenizer, model = up.served.tokenizer, up.served.engine.original
    bare = context.rstrip()
    before = tokenizer.encode(bare) or [tokenizer.specials["<|endoftext|>"]]
    whole = tokenizer.encode(context + continuation)
    ids = whole if bare else [*before, *whole]
    total = 0.0
    for place in range(len(before), len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:place]]))[0, -1].double()
        total += float(logits[ids[place]] - logits.logsumexp(0))
    return total


def run(model: Any, tasks: Sequence[str], **more: Any) -> dict[str, list[dict[str, Any]]]:
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    from kiara_cli.core.eval.harness import _from_file

    specs: list[Any] = [_from_file(Path("tasks", f"{task}.yaml"), False) for task in tasks]
    manager = TaskManager(include_defaults=False)
    found = evaluator.simple_evaluate(
        model, tasks=specs, task_manager=manager, bootstrap_iters=0, log_samples=True, **more
    )
    assert found is not None
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


def test_in_process_and_over_http_the_harness_agrees_with_an_independent_computation(up: Any) -> None:
    from kiara_cli.core.eval.harness import KiaraLM

    tasks = ["foxes", "whole", "greedy"]
    inside = run(KiaraLM(opened_of(up)), tasks)
    url = {"model": "tiny", "base_url": f"{up.url}/v1/completions", "max_length": up.served.context}
    outside = run("local-completions", tasks, model_args=url)
    for samples in (inside, outside):
        for sample, document in zip(samples["foxes"], DOCUMENTS, strict=True):
            wanted = [by_hand(up, document["question"], f" {choice}") for choice in document["choices"]]
            found = [float(scored[0][0]) for scored in sample["resps"]]
            assert found == pytest.approx(wanted, abs=1e-4)
        for sample, document in zip(samples["whole"], DOCUMENTS, strict=True):
            wanted_whole = by_hand(up, "", f"{document['question']} {document['choices'][1]}")
            assert float(sample["resps"][0][0]) == pytest.approx(wanted_whole, abs=1e-4)
    written = [[sample["resps"][0][0] for sample in samples["greedy"]] for samples in (inside, outside)]
    assert written[0] == written[1]
    assert all(written[0])


def test_tasks_of_files_are_answered_and_what_is_wrong_with_others_is_said(
    up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    from kiara_cli.core.eval import harness

    opened = opened_of(up)
    found = harness.run(opened, ["tasks/foxes.yaml"], limit=2)
    right = 0
    for document in DOCUMENTS[:2]:
        scores = [by_hand(up, document["question"], f" {choice}") for choice in document["choices"]]
        right += scores.index(max(scores)) == document["answer"]
    assert found["foxes"]["acc"] == right / 2
    assert math.isfinite(found["foxes"]["acc_stderr"])
    code = Path("tasks/foxes.yaml").read_text() + "process_results: !function os.system\n"
    Path("tasks/code.yaml").write_text(code)
    Path("tasks/around.yaml").write_text("include: code.yaml\n")
    Path("tasks/nameless.yaml").write_text("dataset_path: json\n")
    monkeypatch.setattr(TaskManager, "all_tasks", ["hellaswag"])  # reading all of them takes seconds
    monkeypatch.setattr(harness, "TaskManager", lambda include_defaults: TaskManager(include_defaults=False))
    for task, reason in (
        ("tasks/code.yaml", "names Python functions, which would be run; if you trust them: --trust-code"),
        ("tasks/around.yaml", "tasks/code.yaml names Python functions"),
        ("tasks/nameless.yaml", "has no 'task'"),
        ("tasks/gone.yaml", "No such file"),
        ("hellaswga", "there is no task hellaswga; did you mean hellaswag?"),
    ):
        with pytest.raises(KiaraError) as error:
            harness.run(opened, [task])
        assert reason in str(error.value)
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"


def test_the_line_of_the_documentation_runs_against_the_server(
    up: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks import TaskManager

    docs = Path(__file__).parents[3] / "docs"
    text = (docs / "evaluation.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^lm_eval .*--model local-completions.*$", text, flags=re.MULTILINE)
    line = line.replace("model=tales", "model=tiny").replace("http://127.0.0.1:8000", up.url)
    line = line.replace("max_length=512", f"max_length={up.served.context}")
    Path("docs").symlink_to(docs)
    begin = TaskManager.__init__  # reading the thousands of tasks that come with it takes seconds
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **given: begin(self, **{**given, "include_defaults": False})
    )
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    cli_evaluate()
    assert "|foxes|" in capsys.readouterr().out.replace(" ", "")
