from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.config.keys import keys
from kiara_cli.config.layers import flatten
from kiara_cli.config.load import load_config, to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.config.text import read_mapping
from kiara_cli.core.model.count import count
from kiara_cli.core.train.plan import PAD_TO

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
OTHERS = [path for path in CONFIGS if path.stem != "default"]


def stated(path: Path) -> set[str]:
    """Return the dotted keys a file spells out."""
    return set(flatten(read_mapping(path), str(path)))


def test_the_configs_are_the_ones_we_know() -> None:
    assert {path.stem for path in CONFIGS} >= {
        "default", "small", "fast", "large", "ascii", "shakespeare-char", "detailed-eval",
    }  # fmt: skip


def test_default_yaml_equals_the_schema() -> None:
    loaded = load_config([str(FOLDER / "default.yaml")])
    assert to_mapping(loaded.config) == to_mapping(Config())
    assert loaded.notices == ()


def test_default_yaml_spells_every_key_out() -> None:
    assert stated(FOLDER / "default.yaml") == set(keys())


def test_each_setting_of_default_yaml_is_explained_beside_it() -> None:
    for line in (FOLDER / "default.yaml").read_text().splitlines():
        if line.startswith("  ") and not line.strip().startswith("#"):
            setting, mark, comment = line.partition(" # ")
            assert mark, line
            assert ":" in setting, line
            assert len(comment.strip()) >= 3, line


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_every_other_config_loads_and_states_only_differences(path: Path) -> None:
    config = to_mapping(load_config([str(path)]).config)
    default = to_mapping(Config())
    assert stated(path) <= set(keys())
    # A value may repeat the default where the file's point is that it does; a whole file of them has no point.
    assert config != default


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_every_other_config_opens_with_its_command_and_hardware(path: Path) -> None:
    opening = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        opening.append(line.removeprefix("#").strip())
    assert len(opening) >= 4
    assert any(line.startswith(f"kiara train -c {path.stem}") for line in opening)
    assert any(line.startswith("Hardware:") for line in opening)


def test_the_bare_name_of_a_shipped_config_finds_it(tmp_path: Path) -> None:
    for path in CONFIGS:
        assert load_config([path.stem]).config == load_config([str(path)]).config


def test_large_has_about_a_hundred_million_parameters() -> None:
    config = load_config([str(FOLDER / "large.yaml")]).config
    padded = -(-config.tokenizer.vocab_size // PAD_TO) * PAD_TO
    model = load_config([str(FOLDER / "large.yaml")], [f"model.vocab_size={padded}"]).config.model
    assert 90e6 <= count(model).parameters <= 130e6
