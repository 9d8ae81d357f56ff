"""Every configuration of a recipe is short, loads, and is the one that the recipe names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from w2vbert_asr.commands import finetune, prepare, pretrain
from w2vbert_asr.config import load

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*/conf/*.yaml"))
TRAINING = {"train": ["train"], "dev": "dev", "out": "exp"}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pretrain": (pretrain.Config, TRAINING),
    "finetune": (finetune.Config, {**TRAINING, "tokenizer": "bpe.model"}),
    "prepare": (prepare.Config, {"source": "corpus", "out": "data"}),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPES)))
def test_it_loads_and_is_short(path: Path) -> None:
    cls, options = KINDS[path.stem.split("_")[0]]
    recipe = path.parents[1]
    if cls is prepare.Config:
        corpora = re.findall(r"prepare_(?:sets|corpus) (\w+)", (recipe / "run.sh").read_text())
        options = {**options, "corpus": corpora[-1]}
        if corpora[-1] == "mini":
            del options["source"]
    load(cls, path, options=options)
    assert len(path.read_text().splitlines()) <= 50


def test_each_recipe_has_its_configurations() -> None:
    sizes = ("base", "xl", "xxl")
    librispeech = [f"pretrain_{size}" for size in sizes]
    librispeech += [f"finetune_{labelled}_{size}" for labelled in ("100h", "960h") for size in sizes]
    for recipe in (path.parent for path in RECIPES.glob("*/run.sh")):
        names = librispeech if recipe.name == "librispeech" else ["pretrain", "finetune"]
        assert [name for name in names if not (recipe / f"conf/{name}.yaml").is_file()] == [], recipe.name
