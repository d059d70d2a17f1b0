from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.core.lab import figures
from kiara_cli.core.lab.page import Details, Heading, Paragraph, Preformatted, Svg, Table, page, save_text
from kiara_cli.errors import KiaraError

NAME = "a <b> & $x$ 漢"  # neither markup, nor mathematics, nor a warning of a font
STEPS = [10.0, 20.0, 30.0, 40.0]
MAKE: dict[str, Callable[[], Any]] = {
    "curves": lambda: figures.curves(
        {NAME: (STEPS, [9.0, 3.0, 2.0, 1.0]), "other": (STEPS, [9.0, 4.0, 3.0, 2.0])},
        "steps",
        "loss (nats per token)",
        bands={NAME: ([8.0, 2.0, 1.0, 0.5], [10.0, 4.0, 3.0, 1.5])},
    ),
    "heatmap": lambda: figures.heatmap([[1.0, -2.0], [0.0, 1.0]], [NAME, "row"], ["0", "1"], NAME, center=0.0),
    "intervals": lambda: figures.intervals({NAME: (0.1, 0.0, 0.2), "other": (-0.1, -0.2, -0.05)}, NAME),
    "bars": lambda: figures.bars({NAME: 3.0, "other": -1.0}, NAME),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_picture_is_a_whole_png_and_an_svg_of_words_in_the_ink_of_the_page(tmp_path: Path, kind: str) -> None:
    figure = MAKE[kind]()
    svg = figures.to_svg(figure)
    figures.save_png(figure, tmp_path / "p.png")
    png = (tmp_path / "p.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png.rstrip().endswith(b"IEND\xaeB`\x82")
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "a &lt;b&gt; &amp; $x$ 漢" in svg
    assert "currentColor" in svg
    for forbidden in ("<!DOCTYPE", "<?xml", "<metadata", "<style", "http", "#24292f", "<b>", "<script"):
        assert forbidden not in svg, forbidden
    ids = re.findall(r'id="([^"]*)"', svg)
    assert not [name for name in ids if re.fullmatch(r"[a-zA-Z.]+\d?_\d+", name)]
    assert svg == figures.to_svg(MAKE[kind]())


def test_the_first_losses_do_not_flatten_the_rest() -> None:
    steep = figures.curves({"run": (range(8), [900, 50, 3, 2.5, 2.2, 2.1, 2.05, 2])}, "steps", "loss")
    assert steep.axes[0].get_ylim()[1] < 5
    even = figures.curves({"run": (range(4), [4.0, 3.0, 2.0, 1.0])}, "steps", "loss")
    assert even.axes[0].get_ylim()[1] > 4
    flat = figures.curves({"run": ([1.0, 10.0], [2.0, 2.0]), "none": ([], [])}, "steps", "loss", log_x=True)
    assert flat.axes[0].get_xscale() == "log"


def test_many_lines_are_told_apart_and_counted() -> None:
    figure = figures.curves({f"run {n}": (STEPS, STEPS) for n in range(24)}, "steps", "loss")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 24
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "run 15 … and 8 more"


def test_without_matplotlib_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KiaraError, match=r"need matplotlib, which is not installed; pip install 'kiara-slm\[lab\]'"):
        MAKE["bars"]()


def test_a_picture_that_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (figures.save_png, lambda text, path: save_text("text", path)):
        with pytest.raises(KiaraError, match="cannot write .*file/p.png: .*; give another file"):
            write(MAKE["bars"](), tmp_path / "file" / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_escapes_every_word_and_asks_nobody_for_anything() -> None:
    bad = "<img src=x onerror=alert(1)> & \"'"
    parts = [
        Heading(bad), Paragraph(bad), Preformatted(bad), Table([bad], [[bad], ["12 %"], ["-1.5e-3"]], bad),
        Details(bad, [Paragraph(bad), Heading("inner", 3)]), Svg(figures.to_svg(MAKE["curves"]()), bad),
    ]  # fmt: skip
    text = page(bad, parts)
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") == 11
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.findall(r"https?://|<script|<link|url\((?!#)", text)
    assert text.count('class="n"') == 2
    assert "<h3>inner</h3>" in text
