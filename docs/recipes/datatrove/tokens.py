"""Terabytes of text to token files that Kiara trains on, by datatrove (https://github.com/huggingface/datatrove).

    pip install 'datatrove[io]' tokenizers
    kiara tokenize sample/ tokenizer.vocab_size=32768 --export exported
    python docs/recipes/datatrove/tokens.py texts tokens --exported exported --tokenizer data/sample-1a2b3c4d
    kiara train tokens

The tokenizer is made once, on a part of the text. `exported` is it as datatrove reads it; Kiara's own is put beside
the token files, where `kiara train` and `kiara tokenize` look for it. Any number of tasks, on one machine or under
Slurm; a task that was killed is done again, and only that one. SOURCE and OUT may be addresses: s3://bucket/texts.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from datatrove.io import get_datafolder
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseDiskReader
from datatrove.pipeline.tokens import DocumentTokenizer

TOKENS_PER_FILE = 1_000_000_000  # 2 GB, or 4 GB of a vocabulary of more than 65,536


class PlainReader(BaseDiskReader):  # type: ignore[misc]
    """Read each file as one document."""

    name = "plain text"
    _requires_dependencies: list[str] = []  # noqa: RUF012

    def read_file(self, filepath: str) -> Iterator[Document]:
        with self.data_folder.open(filepath, "rb") as file:
            text = file.read().decode("utf-8", "replace")
        if (document := self.get_document_from_dict({"text": text}, filepath, 0)) is not None:
            yield document


class PlainTokenizer(DocumentTokenizer):  # type: ignore[misc]
    """Encode "<|endoftext|>" in a text as the text that it is: no text may forge the end of a document."""

    @property  # no cached_property: its lock would come out of dill locked, and all workers would wait for it
    def tokenizer(self) -> Any:
        found = super().tokenizer
        found.encode_special_tokens = True
        return found


READERS = {"jsonl": JsonlReader, "parquet": ParquetReader, "plain": PlainReader}


def long_enough(document: Document) -> bool:
    """Whether to keep a document. A place for filters of your own, or datatrove's: GopherQualityFilter, minhash …"""
    return len(document.text) >= 200


def main() -> None:
    parser = argparse.ArgumentParser(description="Text to token files.")
    parser.add_argument("source", help="folder or address of the texts")
    parser.add_argument("out", help="folder or address for the token files")
    parser.add_argument("--exported", required=True, help="folder that kiara tokenize --export wrote")
    parser.add_argument("--tokenizer", required=True, type=Path, help="data folder that kiara tokenize made")
    parser.add_argument("--reader", choices=READERS, default="jsonl")
    parser.add_argument("--glob", default=None, help="which files, such as '*.jsonl.gz' or '**/*.py'")
    parser.add_argument("--tasks", type=int, default=8, help="pieces of the work")
    parser.add_argument("--workers", type=int, default=-1, help="at the same time; -1: all tasks")
    parser.add_argument("--logs", default="datatrove-logs", help="what is done stands there")
    parser.add_argument("--seed", type=int, default=1, help="of the order of documents within a file")
    parser.add_argument("--slurm", metavar="PARTITION", help="submit the tasks to Slurm instead")
    words = parser.parse_args()

    pipeline = [
        READERS[words.reader](words.source, glob_pattern=words.glob),
        LambdaFilter(long_enough),
        PlainTokenizer(
            words.out,
            tokenizer_name_or_path=f"{words.exported}/tokenizer.json",
            eos_token="<|endoftext|>",
            max_tokens_per_file=TOKENS_PER_FILE,
            seed=words.seed,
        ),
    ]
    with get_datafolder(words.out).open("tokenizer.json", "wb") as beside:
        shutil.copyfileobj((words.tokenizer / "tokenizer.json").open("rb"), beside)
    common = {"tasks": words.tasks, "workers": words.workers, "logging_dir": words.logs}
    if words.slurm:
        SlurmPipelineExecutor(pipeline, time="12:00:00", partition=words.slurm, mem_per_cpu_gb=4, **common).run()
    else:
        LocalPipelineExecutor(pipeline, **common).run()


if __name__ == "__main__":
    main()
