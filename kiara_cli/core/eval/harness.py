"""Tasks of lm-evaluation-harness (extra `eval`) on one of Kiara's models.

In: an opened checkpoint; names of the harness's tasks, or YAML files of one's own. Out: the harness's figures. Needs
the package lm-eval, which is imported with this module, and keeps to whatever that was told about the network.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.eval.choices import Likelihood, Pair, encode_pair, log_likelihoods
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import complete_all
from kiara_cli.core.tokenizer.protocol import prompt_ids
from kiara_cli.errors import KiaraError

LONGEST = 256  # tokens of a generated answer where the task names no limit: the harness's own default
BOOTSTRAPS = 1000  # draws for the error of a figure that has no formula for it

# Which settings of the harness are settings of Kiara's.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class KiaraLM(LM):
    """A model as the harness sees one: texts in, log-likelihoods and texts out."""

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened, self.engine = opened, opened.engine()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        pairs = [encode_pair(self.opened.tokenizer, *request.args) for request in requests]
        return [(found.logprob, found.greedy) for found in self._score(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Score whole texts from the beginning of a document on."""
        tokenizer = self.opened.tokenizer
        pairs = []
        for request in requests:
            before = prompt_ids(tokenizer, "")
            pairs.append(Pair([*before, *tokenizer.encode(request.args[0])], len(before)))
        return [found.logprob for found in self._score(pairs)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        prompts = [(request.args[0], settings(request.args[1])) for request in requests]
        found = dict(complete_all(self.engine, self.opened.tokenizer, prompts, self.opened.ends))
        return [found[number].text for number in range(len(prompts))]

    def _score(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        opened = self.opened
        empty = Likelihood(0.0, True, 0)  # of a text of no ids
        wanted = [number for number, pair in enumerate(pairs) if len(pair.ids) > pair.first]
        some = [pairs[number] for number in wanted]
        scored = log_likelihoods(opened.model, opened.runtime, some, opened.config.eval.batch_size)
        found = {wanted[number]: likelihood for number, likelihood in scored}
        return [found.get(number, empty) for number in range(len(pairs))]


def settings(given: dict[str, Any]) -> GenerateConfig:
    """Translate a task's settings for generation; greedy unless it asks for sampling."""
    until = given.get("until") or []
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    chosen = {name: given[name] for name in SAMPLING if given.get(name) is not None}
    if not given.get("do_sample", bool(chosen.get("temperature"))):
        chosen["temperature"] = 0.0
    return GenerateConfig(max_new_tokens=int(given.get("max_gen_toks", LONGEST)), stop=stop, seed=0, **chosen)


def run(
    opened: Opened, tasks: Sequence[str], shots: int | None = None, limit: int | None = None, trusted: bool = False
) -> dict[str, dict[str, float]]:
    """Run tasks, each a name or a YAML file; return the figures of each. Raises KiaraError.

    Files that name Python functions, which the harness would run, must be `trusted`.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    evaluator.get_git_commit_hash = lambda: None  # it asks git about whatever folder this is, which git complains of
    files = [task for task in tasks if is_file(task)]
    manager = TaskManager(include_defaults=len(files) < len(tasks))
    specs: list[Any] = [_from_file(Path(task), trusted) if task in files else task for task in tasks]
    for task in tasks:
        if task not in files and task not in manager.all_tasks:
            close = difflib.get_close_matches(task, manager.all_tasks, n=1)
            remedy = f"did you mean {close[0]}?" if close else "`lm_eval ls tasks` lists them"
            raise KiaraError(f"there is no task {task}", remedy)
    try:
        found = evaluator.simple_evaluate(
            KiaraLM(opened), tasks=specs, num_fewshot=shots, limit=limit, task_manager=manager, log_samples=False,
            bootstrap_iters=BOOTSTRAPS,
        )  # fmt: skip
    except KiaraError:
        raise
    except Exception as error:  # the harness and the data sets raise what they like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise KiaraError(
            f"lm-evaluation-harness cannot run {', '.join(tasks)}: {reason}",
            "a task of one's own needs its data set beside it; --online lets others be downloaded",
        ) from error
    assert found is not None
    return {task: _figures(values) for task, values in found["results"].items()}


def is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _figures(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a task, `acc` for the harness's `acc,none`; without errors that it did not work out."""
    return {name.removesuffix(",none"): value for name, value in values.items() if isinstance(value, int | float)}


def _from_file(path: Path, trusted: bool) -> dict[str, Any]:
    """Read a task of one's own; its data set is looked for beside it first. Raises KiaraError."""
    try:
        if not trusted and (code := _names_code(path)):
            raise KiaraError(f"{code} names Python functions, which would be run", "if you trust them: --trust-code")
        task: dict[str, Any] = load_yaml(path)
    except (OSError, ValueError, ImportError, AttributeError, yaml.YAMLError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "give a YAML file as lm-evaluation-harness describes them"
        raise KiaraError(f"cannot read the task {path}: {reason}", remedy) from None
    if not isinstance(task.get("task"), str):
        raise KiaraError(f"{path} has no 'task', the name of the task", "give it one: task: my_task")
    if (beside := path.parent / str(task.get("dataset_path"))).exists():
        task["dataset_path"] = str(beside.resolve())
    options = task.get("dataset_kwargs") or {}
    if "data_files" in options:
        task["dataset_kwargs"] = {**options, "data_files": _beside(path.parent, options["data_files"])}
    return task


def _names_code(path: Path) -> Path | None:
    """Return the file, of a task's and those it includes, that names functions."""
    if "!function" in (text := path.read_text(encoding="utf-8")):
        return path
    values = yaml.safe_load(text)
    more = values.get("include", []) if isinstance(values, dict) else []
    names = [more] if isinstance(more, str) else more
    return next((found for name in names if (found := _names_code(path.parent / name))), None)


def _beside(folder: Path, files: Any) -> Any:
    """Return files, one, a list or by split, with paths that begin in the task's folder if they are there."""
    if isinstance(files, dict):
        return {name: _beside(folder, value) for name, value in files.items()}
    if isinstance(files, list):
        return [_beside(folder, value) for value in files]
    return str((folder / files).resolve()) if (folder / files).exists() else files
