"""Other people's models, against transformers: ids, texts, logits, and whether Kiara decodes with its fast steps.

    python benchmarks/families.py

In: the folders that the tests write: random weights with each family's real settings. Out: a table.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from kiara_cli.config.load import from_mapping
from kiara_cli.core.export.reading import read_folder
from kiara_cli.core.model.fastpath import why_plain
from kiara_cli.core.tokenizer.protocol import decode, prompt_ids

TESTS = Path(__file__).parents[1] / "tests/core/export"


def module(name: str) -> Any:
    """Load a module of the tests."""
    spec = importlib.util.spec_from_file_location(f"families_{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@torch.inference_mode()
def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tests = module("conftest")
    texts = tests.unicode_strings(1000)
    print("| family | other ids, of 1,000 texts | other texts | largest difference of logits | decode steps |")
    print("|---|---|---|---|---|")
    for family in tests.FOLDERS.FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = tests.FOLDERS.write_folder(family, Path(scratch) / "folder")
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
            spoken = transformers.AutoTokenizer.from_pretrained(folder)
            checkpoint = read_folder(folder)
        ours = checkpoint.make_tokenizer()
        model = checkpoint.make_model(from_mapping(checkpoint.config, family).config.model).eval()
        ids = [spoken.encode(text) for text in texts]
        wrong = sum(prompt_ids(ours, text) != found for text, found in zip(texts, ids, strict=True) if found)
        read = sum(decode(ours, found) != spoken.decode(found, skip_special_tokens=True) for found in ids)
        inputs = torch.randint(0, theirs.config.vocab_size, (4, 128))
        largest = (model(inputs) - theirs(input_ids=inputs).logits).abs().max().item()
        print(f"| {family} | {wrong} | {read} | {largest:.1e} | {why_plain(model) or 'fast'} |")


if __name__ == "__main__":
    main()
