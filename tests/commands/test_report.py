"""The verb `report` on a synthetic experiment: what the page shows, and what it must not let through."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from w2vbert_asr.cli import main

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "path", "polyline"}


class Page(HTMLParser):
    """Collects tags, attributes and text; every element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


def make_experiment(path: Path, contrastive: bool = True) -> Path:
    path.mkdir(parents=True)
    lines = []
    for step in range(10, 510, 10):
        metrics = {
            "loss": 9.0 - step / 100,
            "accuracy": step / 1000,
            "code_perplexity": 50.0,
            "lr": 1e-4,
            "odd_thing": 1.0,
        }
        metrics |= {"contrastive": 4.0, "grad_norm": float("nan") if step == 20 else 2.0} if contrastive else {}
        lines.append({"step": step, "split": "train", "hours": step / 50, "epoch": 0, **metrics})
        if step % 100 == 0:
            lines.append({"step": step, "split": "dev", "loss": 9.5 - step / 100, "wer": 100.0 - step / 10})
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 51')
    timing = [{"step": step, "seconds": 3600.0, "audio_seconds_per_second": 40.0} for step in (10, 20)]
    (path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    (path / "config.yaml").write_text(f"contrastive_weight: {float(contrastive)}\nname: {EVIL!r}\n")
    environment = {"command": ["w2vbert", "pretrain", "--out", f"a {EVIL}"], "versions": {"torch": "9.8.7"}, "cores": 2}
    (path / "environment.json").write_text(json.dumps(environment))
    return path


def add_scores(exp: Path, name: str = "test") -> None:
    refs = {"a-1": f"{EVIL} one two", "a-2": "three", "b-1": "", "b-2": "four five six"}
    hyps = {"a-1": "<img src=x> two", "a-2": "three", "b-1": "oh", "b-2": "four fife six"}
    out = exp / "decode" / name
    out.mkdir(parents=True)
    for file, records in (("ref", refs), ("text", hyps), ("utt2spk", {key: f"<b>{key[0]}" for key in refs})):
        (out / file).write_text("".join(f"{key} {value}\n" for key, value in records.items()))
    assert main(["score", "--ref", str(out / "ref"), "--hyp", str(out / "text"), "--out", str(out)]) == 0


def report(*experiments: Path) -> str:
    assert main(["report", *map(str, experiments)]) == 0
    return (experiments[0] / "report.html").read_text(encoding="utf-8")


def test_page_shows_everything(tmp_path: Path) -> None:
    first, second = make_experiment(tmp_path / "base"), make_experiment(tmp_path / "ablation", contrastive=False)
    add_scores(first)
    html = report(first, second)
    page = Page(html)
    words = " ".join(page.words.split())
    for expected in (
        "base compared with ablation",
        "2:00:00",  # training time
        "learning rate", "gradient norm", "codebook perplexity", "dev WER (%)", "contrastive", "odd thing",
        "test", "57.14", "real-time factor",  # 4 errors of 7 words
        "a-1 · 2 of 3 words", "b-2 · 1 of 3 words",
        "contrastive_weight 1.0 0.0",  # what differs
        "versions.torch 9.8.7", "w2vbert pretrain --out 'a <script>alert(1)</script>'",
    ):  # fmt: skip
        assert expected in words
    assert "a-2 · " not in words  # no error
    loss = html[html.index("<figcaption>loss<") : html.index("<figcaption>contrastive<")]
    assert loss.count('<polyline class="train c0"') == loss.count('<polyline class="train c1"') == 1
    assert loss.count("<circle") == 10
    assert "base, dev, step 500: 4.5" in loss
    assert 'class="train c1"' not in html[html.index("<figcaption>contrastive<") : html.index("<figcaption>accuracy<")]
    assert len(html) < 100_000


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    exp = make_experiment(tmp_path / "<b>exp & 'co'")
    add_scores(exp, "<i>set")
    html = report(exp)
    page = Page(html)
    assert set(page.tags).isdisjoint({"script", "img", "b>exp", "link", "iframe"})
    assert page.attributes.isdisjoint({"src", "href", "onerror", "onload"})
    assert not re.search(r"https?://|url\(|@import", html)
    assert EVIL in page.words  # as text
    assert "<b>exp & 'co'" in page.words
    assert "<i>set" in page.words
    assert "<b>a" in page.words  # a speaker


def test_same_input_same_bytes(tmp_path: Path) -> None:
    exp = make_experiment(tmp_path / "exp")
    add_scores(exp)
    assert report(exp) == report(exp)


def test_much_is_optional(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "log.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    words = Page(report(trained)).words
    assert "environment.json is missing" in words
    assert "config.yaml is missing" in words
    add_scores(tmp_path / "scored")
    assert "Curves" not in Page(report(tmp_path / "scored")).words


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = make_experiment(tmp_path / "x" / "exp"), make_experiment(tmp_path / "y" / "exp")
    words = Page(report(first, second)).words
    assert str(first) in words
    assert str(second) in words


def test_other_searches_and_real_time_factor(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    add_scores(exp)
    (exp / "decode").rename(exp / "decode_greedy")
    (exp / "decode_greedy" / "test" / "timing.json").write_text('{"real_time_factor": 0.1234}')
    words = Page(report(exp)).words
    assert "greedy/test" in words
    assert "0.123" in words


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("log.jsonl", '{"step": 1}\n{"step"\n{"step": 3}\n', "log.jsonl:2: not valid JSON"),
        ("log.jsonl", "[1]\n", "log.jsonl:1: expected a JSON object"),
        ("environment.json", "{", "environment.json: not valid JSON"),
        ("decode/test/wer.json", "", "ref.trn and hyp.trn have different utterances"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, message: str
) -> None:
    exp = make_experiment(tmp_path / "exp")
    (exp / file).parent.mkdir(parents=True, exist_ok=True)
    (exp / file).write_text(text)
    if file.startswith("decode"):
        (exp / "decode/test/ref.trn").write_text("one (a)\n")
    assert main(["report", str(exp)]) == 3
    assert message in capsys.readouterr().err
    assert not (exp / "report.html").exists()


def test_no_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 3
    assert "no such experiment folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 3
    assert "train or score first" in capsys.readouterr().err
