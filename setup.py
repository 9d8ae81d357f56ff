"""The package, its console script and what it depends on; constraints.txt pins the versions that are tested."""

from setuptools import find_packages, setup

REQUIRED = [
    "jinja2",
    "kaldiio",
    "matplotlib",
    "numpy",
    "pyyaml",
    "rapidfuzz",
    "safetensors",
    "sentencepiece",
    "soundfile",
    "soxr",
    "tensorboard",
    "torch",
    "torchaudio",
    "tqdm",
]
EXTRAS = {
    "mini": ["espeakng-loader"],  # the synthesised corpus of recipes/mini
    "test": [
        "hypothesis",
        "jiwer",
        "kaldi-native-fbank",
        "kaldialign",
        "mypy",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "types-PyYAML",
        "types-tqdm",
    ],
    # Peers to measure against; lhotse imports urllib3 without asking for it.
    "bench": ["jiwer", "kaldi-native-fbank", "kaldialign", "lhotse", "urllib3"],
    "peers": ["transformers"],  # large, and for tools/bench/pretrain.py alone, which says how ESPnet is added
}

setup(
    name="w2vbert_asr",
    version="0.1.0",
    description="W2V-BERT pre-training and transducer speech recognition",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["w2vbert_asr", "w2vbert_asr.*"]),
    package_data={"": ["*.j2"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["w2vbert = w2vbert_asr.cli:main"]},
)
