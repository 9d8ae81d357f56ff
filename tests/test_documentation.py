"""What the documentation says is so: its commands parse, its paths exist, its Python runs, its exit codes are true."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2vbert_asr import cli, config, errors, model_folder
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.decoder import DecoderConfig
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.joiner import JoinerConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.text import tokenizer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md")])


def commands(document: Path) -> list[str]:
    """The lines of a document that a reader may type, from code blocks and inline code."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4}|\$ )(.*)$", text, re.MULTILINE)
    blocks += [line for block in re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line.strip() for line in [*blocks, *re.findall(r"`([^`\n]+)`", text)]]


LINES = [(document, line) for document in DOCUMENTS for line in commands(document)]


def label(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(("document", "line"), [pair for pair in LINES if pair[1].startswith("w2vbert ")], ids=label)
def test_verbs_and_options_exist(document: Path, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0] in ("--help", "<verb>", "VERB"):
        return
    assert words[0] in cli.VERBS
    known = [arg.name for arg in cli.VERBS[words[0]].args] + ["--config", "--set", "--json", "--help"]
    assert [word for word in words if word.startswith("--") and cli._normalize(word).split("=")[0] not in known] == []


@pytest.mark.parametrize(
    ("document", "line"), [pair for pair in LINES if re.match(r"\S*(run\.sh|tools/\w+\.sh) ", pair[1])], ids=label
)
def test_options_of_scripts_exist(document: Path, line: str) -> None:
    words = shlex.split(line, comments=True)
    script = find(words[0], document)
    assert script is not None
    if script.name == "run.sh":
        shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
        options = {word.split("=")[0].replace("_", "-") for word in words if word.startswith("--") and " " not in word}
        assert options <= {"--help", *re.findall(r"^  (--[\w-]+)", shown, re.MULTILINE)}


def find(name: str, document: Path) -> Path | None:
    """A path of a document, which is relative to the repository or to the document."""
    return next((path for path in (ROOT / name, document.parent / name) if path.exists()), None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_paths_exist(document: Path) -> None:
    named = [word for source, line in LINES if source == document for word in line.split()]
    paths = [word for word in named if re.fullmatch(r"(\./|\.ci/|tools/|docs/|tests/|recipes/\w+/)[\w./-]+", word)]
    made = re.compile(r"/(data|dump|exp|downloads)/")
    assert [path for path in paths if not made.search(path) and find(path, document) is None] == []


def test_the_two_commands_stand_in_the_readme() -> None:
    lines = commands(ROOT / "README.md")
    assert lines.index("./recipes/mini/run.sh") < lines.index("./tools/test.sh")


def test_exit_codes_are_those_of_the_code() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \| [^|]+ \|$", table, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]
    assert listed == {0, 1, 130} | {kind.exit_code for kind in kinds}


def write_tiny_model(folder: Path, blank_bias: float = 2.0, contrast: float = 1.0, ctc_weight: float = 0.0) -> None:
    """A transducer of random weights, as stage 5 writes it.

    blank_bias: or it would emit tokens without end. contrast: how much its output depends on what it hears.
    """
    torch.manual_seed(0)
    bpe, stats = folder.parent / "bpe.model", folder.parent / "stats.safetensors"
    bpe.write_bytes(tokenizer.train(["one two three", "four five six"], 20))
    FeatureStats.accumulate([torch.randn(50, 80)]).save(stats)
    block = ConformerConfig(model_dim=16, num_heads=2, feed_forward_dim=32)
    model_config = TransducerConfig(
        encoder=EncoderConfig(num_layers=1, block=block),
        projection_dim=16,
        decoder=DecoderConfig(embedding_dim=8, hidden_dim=16, num_layers=1),
        joiner=JoinerConfig(joiner_dim=16),
        ctc_weight=ctc_weight,
    )
    model = Transducer(model_config, tokenizer.Tokenizer(bpe).vocab_size, 0)
    model.joiner.encoder_projection.weight.data *= contrast
    model.joiner.output.weight.data *= contrast
    model.joiner.output.bias.data[0] += blank_bias
    model_folder.write(
        folder,
        kind="transducer",
        model=config.to_dict(model_config),
        weights=model.state_dict(),
        files={model_folder.STATS: stats, model_folder.BPE: bpe},
        card="",
    )


def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model = tmp_path / re.findall(r'load_model\("(.*?)"\)', code)[0]
    model.parent.mkdir(parents=True)
    write_tiny_model(model)
    soundfile.write(tmp_path / "speech.flac", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    (tmp_path / "readme.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("readme.py")
    transcript = names["transcript"]
    assert capsys.readouterr().out == f"{transcript.text} {transcript.times}\n"
    silence = names["recognizer"].transcribe(np.zeros((8000, 2), dtype=np.float32), sample_rate=8000)
    assert all(0 <= time <= 1 for time in silence.times) and len(silence.times) == len(silence.tokens)
