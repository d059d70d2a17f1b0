"""`kiara inspect` as a person runs it: every view, files, JSON, and what they get wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from kiara_cli.core.lab import figures
from kiara_cli.core.lab.inspect import page
from tests.commands.conftest import Kiara

HERE = ["checkpoints/text/best.pt", "--raw", "--prompt", "the cat s"]


def test_every_view_is_shown_and_drawn_and_says_the_same_as_its_json(
    kiara: Kiara, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[str] = []
    more = [
        "--tokens",
        "4",
        "--corrupt",
        "the dog s",
        "--answer",
        "at o",
        "--head",
        "1.2",
        "--text",
        "text.txt",
        "--mean",
    ]
    with monkeypatch.context() as patch:  # to draw is quick, to write is not
        patch.setattr(figures, "save_png", lambda figure, path: pictures.append(path.stem))
        ran = kiara("inspect", *HERE, *more, "--show", "all", "--png", "pictures")
    assert ran.status == 0, ran.err
    for title in ("Surprisal: ", "Attention: ", "Head 1.2: ", "Logit lens: ", "Attribution: logit(a) = ", "Norms ",
                  "Ablation: loss on 1", "Patching: log p(a) is ", "Neurons of layer 1"):  # fmt: skip
        assert title in ran.out, title
    assert "\x1b" not in ran.out
    written = kiara("inspect", *HERE, *more, "--show", "all", "--json")
    found = json.loads(written.out)
    assert found["tokens"] == list("the␣cat␣sat␣o")
    assert (found["answer_start"], found["explained"]) == (9, {"position": 9, "token": "a"})
    heads = found["attention"]["heads"]
    assert [one["head"] for one in heads] == ["1.2"]
    assert [sum(row) for row in heads[0]["pattern"]] == pytest.approx([1.0] * 13, abs=1e-5)
    parts = found["attribution"]["parts"]
    assert sum(parts.values()) == pytest.approx(found["attribution"]["logit"], abs=1e-3)
    assert f"= {found['attribution']['logit']:.2f} is the sum of" in ran.out
    assert len(found["ablation"]["parts"]) == 2 * 5
    assert found["patching"]["metric"] == "log p(a)"
    assert [len(row) for row in found["patching"]["resid_pre"]] == [9, 9]
    assert found["lens"][-1]["positions"][8]["probability"] == pytest.approx(
        2 ** -found["surprisal"][8]["bits"], rel=1e-3
    )
    assert set(pictures) >= {
        "patterns",
        "head-1.2",
        "lens",
        "ablation",
        "attribution",
        "patching-resid_pre",
        "neurons",
    }
    ran = kiara("inspect", *HERE, *more, "--show", "lens", "--png", "pictures", "--html", "page.html")
    assert ran.err.splitlines() == ["wrote pictures/lens.png", "wrote page.html"]
    assert Path("pictures/lens.png").read_bytes().startswith(b"\x89PNG")
    check_page(Path("page.html").read_text(encoding="utf-8"))


def check_page(html: str) -> None:
    """The page needs nothing from elsewhere, and its policy lets its one script run."""
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in html
    assert not re.search(r"https?://|\b(src|href)=.(?!#|data:)|url\((?!#)", html)
    data = json.loads(re.search(r"const LOOK = (.*);\n", script).group(1))  # type: ignore[union-attr]
    assert data["tokens"] == list("the␣cat␣sat␣o")
    row = [ord(character) - 48 for character in data["patterns"]["1.2"][8 * 9 : 8 * 9 + 18]]
    shares = [((64 * high + low) / 4095) ** 2 for high, low in zip(row[::2], row[1::2], strict=True)]
    assert sum(shares) == pytest.approx(1.0, abs=0.01)


def test_a_few_views_are_shown_by_default_and_a_neuron_is_followed(kiara: Kiara, trained: Path) -> None:
    ran = kiara("inspect", *HERE, "--tokens", "5")
    titles = [line.split(":")[0] for line in ran.out.splitlines() if line[:1].isalpha() and ": " in line]
    assert [title for title in titles if title in ("Surprisal", "Attention", "Attribution", "Patching")] == [
        "Surprisal", "Attention", "Attribution",
    ]  # fmt: skip
    assert len(ran.out.splitlines()) <= 48
    ran = kiara(
        "inspect", *HERE, "--tokens", "2", "--neuron", "1:3", "--show", "neurons", "--text", "text.txt", "--json"
    )
    found = json.loads(ran.out)["neurons"]
    assert found["neuron"] == "1:3"
    assert len(found["activations"]) == 11
    activations = [one["activation"] for one in found["excited"]]
    assert activations == sorted(activations, reverse=True)
    assert found["tokens"] == 8 * 16


WRONG: dict[str, tuple[list[str], str]] = {
    "no prompt": ([], "there is nothing to look at; give --prompt TEXT"),
    "long": (["--prompt", "the cat sat on the mat"], "22 tokens long, and this model reads 16 at once"),
    "lengths": (
        ["--prompt", "the cat", "--corrupt", "the lion"],
        "--prompt is 7 tokens long and --corrupt 8: from token 4 on they differ, c|a|t against l|�|o|n; write "
        "something of 3 tokens there",
    ),
    "head": (["--prompt", "the", "--head", "1.4"], "a layer of this model has 4 heads; give one from 0 to 3"),
    "nowhere": (["--prompt", "the", "--html", "no/page.html"], "there is no folder no for --html no/page.html"),
    "text": (["--prompt", "the", "--text", "no.txt"], "no.txt"),
}


def test_a_mistake_is_one_line_and_nothing_is_written(kiara: Kiara, trained: Path, nothing_behind: Any) -> None:
    nothing_behind()
    for name, (words, message) in WRONG.items():
        ran = kiara("inspect", "checkpoints/text/best.pt", "--raw", *words)
        assert message in ran.late_mistake, (name, ran.err)
        nothing_behind()


def test_a_head_taken_out_by_a_hook_costs_what_its_ablation_says(kiara: Kiara, trained: Path) -> None:
    answer = [*HERE, "--answer", "at o", "--show", "surprisal,ablation,attribution", "--json"]
    plain = json.loads(kiara("inspect", *answer).out)
    hook = ["hooks.quiet.use=suppress", "hooks.quiet.at=blocks.1.attention.heads", "hooks.quiet.heads=[2]"]
    ran = kiara("inspect", *answer, *hook)
    hooked = json.loads(ran.out)
    nats = [one["nats"] for one in hooked["surprisal"][8:]]
    assert len(nats) == 4
    change = plain["ablation"]["parts"]["head 1.2"]["change"]
    assert abs(change) > 1e-6
    assert sum(nats) / 4 == pytest.approx(plain["ablation"]["loss"] + change, abs=1e-5)
    assert hooked["ablation"]["parts"]["head 1.2"]["change"] == pytest.approx(0, abs=1e-6)
    assert hooked["attribution"]["parts"]["head 1.2"] == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium on this machine")
def test_the_page_shows_where_a_head_looks_from_a_token_without_matplotlib_too(
    kiara: Kiara, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(page, "find_spec", lambda name: None)
        kiara("inspect", *HERE, "--answer", "at o", "--show", "lens", "--html", "page.html")
    assert "Figures need matplotlib" in Path("page.html").read_text()
    found = json.loads(
        kiara("inspect", *HERE, "--answer", "at o", "--show", "attention", "--head", "1.2", "--json").out
    )
    row = found["attention"]["heads"][0]["pattern"][10]
    most = max(range(11), key=row.__getitem__)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view, complaints = browser.new_page(), []
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(Path("page.html").absolute().as_uri())
        view.get_by_role("button", name="1.2", exact=True).click()
        view.locator(".words span").nth(10).hover()
        told = view.locator(".told").inner_text()
        browser.close()
    assert complaints == []
    assert f"Head 1.2 looks from 10 t at: {found['tokens'][most]} ({most}) " in told
    assert "Next comes ␣: " in told
