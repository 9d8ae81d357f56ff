"""The strict loader: what it takes, what it refuses, and how it says so (S03, S04 of the fault table)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2vbert_asr import config
from w2vbert_asr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Block:
    dim: int = 16
    dropout: float = 0.1
    causal: bool = False

    def problems(self) -> list[str]:
        return [] if self.dim % 4 == 0 else [f"dim={self.dim} is not a multiple of 4"]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    num_layers: int = 2
    block: Block = field(default_factory=Block)


@dataclass(frozen=True, kw_only=True)
class Run:
    train: tuple[Path, ...]
    name: Literal["greedy", "beam"] = "beam"
    encoder: Encoder = field(default_factory=Encoder)
    peak_lr: float = 1e-3
    limit: int | None = None
    note: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    span: tuple[int, int] = (1, 2)


TRAIN = {"train": [Path("a")]}


def load(tmp_path: Path, text: str) -> Run:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return config.load(Run, file, options=TRAIN)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_values_of_every_kind(tmp_path: Path) -> None:
    text = """
encoder:
  num_layers: 12
  block: {dim: 8, causal: true}
peak_lr: 5e-4   # YAML 1.1 alone would read this as text
limit: 3
note: 2026-01-02
weights: {a: 1, b: .5}
span: [3, 4]
name: greedy
"""
    run = load(tmp_path, text)
    assert run == Run(
        train=(Path("a"),),
        name="greedy",
        encoder=Encoder(num_layers=12, block=Block(dim=8, causal=True)),
        peak_lr=0.0005,
        limit=3,
        note="2026-01-02",
        weights={"a": 1.0, "b": 0.5},
        span=(3, 4),
    )
    assert isinstance(run.peak_lr, float) and isinstance(run.weights["a"], float)


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n") == load(tmp_path, "{}") == Run(train=(Path("a"),))


@pytest.mark.parametrize("text", ["limit: null", "limit:", "limit: ~"])
def test_null_where_it_is_allowed(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).limit is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder:\n  num_layer: 3", "run.yaml:2: unknown key encoder.num_layer; did you mean encoder.num_layers?"),
        ("peaklr: 1", "run.yaml:1: unknown key peaklr; did you mean peak_lr?"),
        ("zzz: 1", "unknown key zzz; valid keys: train, name, encoder"),
        ("encoder:\n  num_layers: 2.7", "run.yaml:2: encoder.num_layers: expected a whole number, found 2.7"),
        ("encoder: {num_layers: true}", "encoder.num_layers: expected a whole number, found True"),
        ("encoder: {num_layers: '3'}", "encoder.num_layers: expected a whole number, found '3'"),
        ("peak_lr: true", "peak_lr: expected a number, found True"),
        ("peak_lr: fast", "peak_lr: expected a number, found 'fast'"),
        ("peak_lr: .nan", "peak_lr: expected a number, found nan"),
        ("peak_lr: .inf", "peak_lr: expected a number, found inf"),
        ("encoder: {block: {causal: 1}}", "encoder.block.causal: expected true or false, found 1"),
        ("encoder: {block: {causal: 'yes'}}", "encoder.block.causal: expected true or false, found 'yes'"),
        ("note: true", "note: expected text, found True"),
        ("name: beem", "name: expected one of greedy, beam, found 'beem'; did you mean beam?"),
        ("span: [1, 2, 3]", "span: expected 2 values, found 3"),
        ("span: 1", "span: expected a list, found 1"),
        ("span: [1, 2.5]", "span[1]: expected a whole number, found 2.5"),
        ("weights: {a: [1]}", "weights.a: expected a number, found [1]"),
        ("encoder: 3", "encoder: expected keys and values, found 3"),
        ("encoder:\n  block:\n    dim: 6", "encoder.block.dim=6 is not a multiple of 4"),
        ("- a\n- b", "expected `key: value` lines"),
        ("note: a\nnote: b", "run.yaml:2: duplicate key 'note', first at run.yaml:1"),
        ("encoder: {block: {dim: 4}, block: {dim: 8}}", "duplicate key 'block'"),
        ("note: [a", "run.yaml:1: not valid YAML"),
        ("note: 'a\x01'", "not valid YAML"),
        ("1: a", "unknown key 1"),
        ("[a]: 1", "run.yaml:1: a key must be a plain word"),
    ],
)
def test_refusals_name_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = "peak_lr: true\nencoder:\n  num_layer: 3\n  block:\n    dim: 2.5\nname: b\n"
    lines = refusal(tmp_path, text).splitlines()
    assert [line.strip().split(":")[1] for line in lines[1:]] == ["1", "3", "5", "6"]


def test_a_required_key_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train is required"):
        config.load(Run)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!!binary aGk=",
        "!mine 3",
        "!!set {a, b}",
    ],
)
def test_tags_are_refused(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is not allowed; configurations are plain data" in refusal(tmp_path, f"note: {value}")
    assert not (tmp_path / "pwned").exists()


def bomb(levels: int) -> str:
    """The billion laughs: each level is ten times the one before."""
    lines = ["l0: &l0 x"] + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder: &e {num_layers: 1}", "run.yaml:1: anchors and aliases are not allowed"),
        (bomb(12), "anchors and aliases are not allowed"),
        ("note: " + "[" * 60_000, "nested more than 50 deep"),
        ("note: " + "{a: " * 16_000, "nested more than 50 deep"),
        ("note:\n- " + "- " * 32_000, "nested more than 50 deep"),
        ("note: " + "x" * 100_000, "larger than 65536 bytes"),
    ],
    ids=["anchor", "bomb", "brackets", "braces", "dashes", "long"],
)
def test_bombs_are_refused_fast(tmp_path: Path, text: str, message: str) -> None:
    start = time.process_time()
    assert message in refusal(tmp_path, text)
    assert time.process_time() - start < 1


def test_a_huge_file_is_refused_fast(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    with file.open("wb") as handle:
        handle.truncate(100 << 20)  # sparse: no byte of it is on the disk
    start = time.process_time()
    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        config.load(Run, file)
    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        config.load(Run, "/dev/zero")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(Run, tmp_path / name)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"note: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 9"):
        config.load(Run, file)


def test_settings_win_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("encoder: {num_layers: 1, block: {dim: 4}}\nlimit: 1\n")
    run = config.load(Run, file, ["encoder.num-layers=2", "limit=2", "span=[5, 6]"], {**TRAIN, "limit": 3})
    assert (run.encoder.num_layers, run.encoder.block.dim, run.limit, run.span) == (2, 4, 3, (5, 6))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("encoder.num_layers", "expected key=value"),
        ("encoder.num_layers=2.5", "--set encoder.num_layers: encoder.num_layers: expected a whole number, found 2.5"),
        ("limit.x=2", "expected"),
        ("encoder.blok.dim=4", "unknown key encoder.blok; did you mean encoder.block?"),
    ],
)
def test_wrong_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(Run, None, [setting], TRAIN)
    assert message in str(caught.value)


def test_a_setting_below_a_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("limit: 3\n")
    with pytest.raises(ConfigError, match="limit is a value, it has no keys"):
        config.load(Run, file, ["limit.x=2"], TRAIN)


RUNS = st.builds(
    Run,
    train=st.lists(st.sampled_from([Path("a"), Path("b c"), Path("ü/1")])).map(tuple),
    name=st.sampled_from(["greedy", "beam"]),
    encoder=st.builds(
        Encoder,
        num_layers=st.integers(),
        block=st.builds(Block, dim=st.integers(-99, 99).map(lambda n: 4 * n), causal=st.booleans()),
    ),
    peak_lr=st.floats(allow_nan=False, allow_infinity=False),
    limit=st.none() | st.integers(),
    note=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    weights=st.dictionaries(st.sampled_from(["a", "yes", "1"]), st.floats(-1, 1)),
)


@given(RUNS)
def test_what_is_dumped_loads_to_the_same(run: Run) -> None:
    assert config.from_dict(Run, config.to_dict(run)) == run
    tree = config._unwrap(config._read_text(config.dump(run), "dump"))
    assert config.from_dict(Run, tree) == run


def test_difference_lists_leaves() -> None:
    old = config.to_dict(Run(train=()))
    new = config.to_dict(Run(train=(), encoder=Encoder(block=Block(dim=8)), limit=1))
    assert config.difference(old, new) == {"encoder.block.dim": (16, 8), "limit": (None, 1)}
    assert config.difference({"a": {"b": 1}}, {"c": 2}) == {"a": ({"b": 1}, None), "c": (None, 2)}
