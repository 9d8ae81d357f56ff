"""The command line: the verb table, arguments and exit codes. The only reader of argv.

Every verb is a module in `commands` with a frozen dataclass `Config` and `run(config) -> dict | None`. Arguments are
names for keys of that configuration; `--config FILE.yaml` and `--set key=value` reach all of them.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from w2vbert_asr import config as configuration
from w2vbert_asr.allocator import keep_freed_memory
from w2vbert_asr.errors import UserError


@dataclass(frozen=True)
class Arg:
    """An argument: `--name` (or a positional without dashes), the configuration key that it sets, and its kind."""

    name: str
    help: str
    key: str = ""
    kind: Literal["path", "text", "int", "float", "flag"] = "text"
    many: bool = False

    @property
    def target(self) -> str:
        return self.key or self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Verb:
    """of_training: `--config` and `--set` are those of a training that the verb is about, and reach it as its keys
    config_file and settings."""

    help: str
    args: tuple[Arg, ...]
    of_training: bool = False


def _path(name: str, help: str, key: str = "", many: bool = False) -> Arg:
    return Arg(name, help, key, "path", many)


_OUT = _path("--out", "folder to write")
_JOBS = Arg("--num-jobs", "processes", kind="int")
_TRAINING = (
    _path("--train", "training data directories (of dump/)", many=True),
    _path("--dev", "development data directory"),
    _path("--out", "experiment folder; the same line again resumes"),
    _path("--init", "experiment or model folder whose weights to start from"),
    Arg("--max-steps", "optimizer steps of the whole run", "trainer.max_steps", "int"),
    Arg("--save-every", "steps between checkpoints", "trainer.save_every", "int"),
    Arg("--eval-every", "steps between evaluations on dev", "trainer.eval_every", "int"),
    Arg("--keep", "newest checkpoints to keep", "trainer.keep", "int"),
    Arg("--seed", "seed of everything random", "trainer.seed", "int"),
    Arg("--device", "cpu, cuda or auto", "trainer.device"),
    Arg("--precision", "auto, fp32 or bf16", "trainer.precision"),
    Arg("--num-workers", "loader processes", "data.num_workers", "int"),
    Arg("--allow-change", "resume although the configuration has changed", "trainer.allow_change", "flag"),
)
_SEARCH = (
    Arg("--search", "greedy, beam, alsd or maes", "search.name"),
    Arg("--beam-size", "hypotheses kept", "search.beam_size", "int"),
    _path("--lm", "language model to add: an ARPA file (`ngram`), KenLM's binary file, or a model folder (`lm`)"),
    Arg("--lm-weight", "its weight", "search.lm_weight", "float"),
    Arg("--length-reward", "added for every word piece", "search.length_reward", "float"),
    _path("--lodr", "low-order n-gram model of the training text, to take away"),
    Arg("--lodr-weight", "its weight", "search.lodr_weight", "float"),
    Arg("--device", "cpu, cuda or auto"),
)

_HELD_OUT = _path("--held-out", "data directories whose speakers are left out of --text", many=True)
_CALIBRATION = _path("--calibration", "file of `w2vbert calibrate`, for confidences")

VERBS: dict[str, Verb] = {
    "prepare": Verb(
        "write Kaldi data directories from a corpus",
        (
            Arg("corpus", "librispeech, librilight, an4, folder or mini"),
            _path("--source", "where the corpus is, or is downloaded to"),
            _path("--out", "folder of the data directories"),
            Arg("--download", "fetch the corpus first (librispeech)", kind="flag"),
            _path("--table", "transcripts of a folder: TSV, CSV, |-separated or JSONL"),
            Arg("--seed", "seed (mini)", kind="int"),
            _JOBS,
        ),
    ),
    "validate": Verb(
        "check data directories and report everything at once",
        (
            _path("dirs", "data directories", many=True),
            Arg("--no-audio", "do not open the audio", kind="flag"),
            Arg("--anew", "read all audio, also what has not changed since prepare read it", kind="flag"),
            Arg("--strict", "warnings are errors", kind="flag"),
            _JOBS,
        ),
    ),
    "fix": Verb(
        "write a mended copy of a data directory",
        (_path("dir", "data directory"), _OUT, Arg("--encoding", "encoding of its tables, such as latin-1"), _JOBS),
    ),
    "shard": Verb(
        "pack the audio of a data directory into tar shards",
        (
            _path("data", "data directory"),
            _path("--out", "data directory to write, with the shards"),
            Arg("--shard-seconds", "seconds of audio in a shard", kind="float"),
            Arg("--max-dropped", "share of utterances whose audio may be missing", kind="float"),
            _JOBS,
        ),
    ),
    "fbank": Verb(
        "extract log-mel filterbanks",
        (
            _path("data", "data directory"),
            _path("--out", "dump folder to write"),
            Arg("--stats", "also the global mean and variance", kind="flag"),
            Arg("--speeds", "speed factors, such as 0.9 1.0 1.1", kind="float", many=True),
            Arg("--online", "write no archives, for data.features=online", kind="flag"),
            Arg("--max-dropped", "share of utterances that may be unusable", kind="float"),
            _JOBS,
        ),
    ),
    "tokenizer": Verb(
        "train the word-piece model",
        (
            _path("--text", "Kaldi text files", many=True),
            _path("--check", "Kaldi text files whose unseen characters to report", many=True),
            Arg("--vocab-size", "word pieces (a soft limit)", kind="int"),
            _OUT,
        ),
    ),
    "ngram": Verb(
        "train an n-gram language model over word pieces",
        (
            _path("--text", "Kaldi text files", many=True),
            _path("--lines", "plain text files, a sentence a line (.gz too)", many=True),
            _HELD_OUT,
            _path("--tokenizer", "bpe.model of stage 2"),
            Arg("--order", "longest n-grams (default 4)", kind="int"),
            _path("--dev", "Kaldi text files whose perplexity to report", many=True),
            _path("--out", "ARPA file to write"),
        ),
    ),
    "lm": Verb(
        "train a Transformer language model over word pieces",
        (
            _path("--text", "Kaldi text files", many=True),
            _path("--lines", "plain text files, a sentence a line (.gz too)", many=True),
            _HELD_OUT,
            _path("--dev", "Kaldi text files that choose the checkpoint", many=True),
            _path("--tokenizer", "bpe.model of stage 2"),
            _path("--out", "experiment folder; the same line again resumes"),
            *(arg for arg in _TRAINING if arg.target.startswith("trainer.")),
        ),
    ),
    "pretrain": Verb("pre-train W2V-BERT", _TRAINING),
    "finetune": Verb("train the transducer", (*_TRAINING, _path("--tokenizer", "bpe.model of stage 2"))),
    "replay": Verb(
        "make a past step of a training again and open it",
        (
            _path("--exp", "experiment"),
            Arg("--step", "step, as in its log", kind="int"),
            _path("--bundle", "a step of nonfinite/, in place of --step"),
            _path("--out", "folder to write (replay/ in the experiment)"),
            Arg("--device", "cpu, cuda or auto"),
        ),
    ),
    "average": Verb(
        "average the best checkpoints into a model folder",
        (
            _path("--exp", "experiment"),
            Arg("--num", "checkpoints", kind="int"),
            _path("--out", "model folder to write"),
        ),
    ),
    "decode": Verb(
        "decode a data directory",
        (
            _path("--model", "model folder or experiment"),
            _path("--data", "data directory"),
            _path("--out", "folder of the hypotheses; the same line again goes on after a kill"),
            *_SEARCH,
            _CALIBRATION,
            _JOBS,
        ),
    ),
    "tune": Verb(
        "find the weight of a language model and the length reward on a development set, with one pass of the encoder",
        (
            _path("--model", "model folder or experiment"),
            _path("--data", "data directory, with its text"),
            _path("--out", "folder to write: tune.json, tune.png, and decode.yaml for `decode --config`"),
            Arg("--lm-weights", "weights to try", kind="float", many=True),
            Arg("--length-rewards", "rewards to try", kind="float", many=True),
            *(arg for arg in _SEARCH if arg.name not in ("--lm-weight", "--length-reward")),
        ),
    ),
    "rescore": Verb(
        "exact log P(text | audio) of the n-best hypotheses of a decoding, over all alignments; adds language models",
        (
            _path("--model", "model folder or experiment"),
            _path("--data", "data directory that was decoded"),
            _path("--hyp", "folder of the hypotheses"),
            _path("--out", "folder to write, with the hypotheses ranked anew"),
            *(arg for arg in _SEARCH if arg.name not in ("--search", "--beam-size")),
        ),
    ),
    "score": Verb(
        "WER and CER",
        (
            _path("--ref", "Kaldi text with the references"),
            _path("--hyp", "Kaldi text with the hypotheses"),
            _path("--out", "folder to write"),
            _path("--utt2spk", "speakers, for the table and the interval"),
            _path("--hyp2", "hypotheses of a second system, for a paired bootstrap"),
        ),
    ),
    "calibrate": Verb(
        "fit confidences to the share of words that is right",
        (
            _path("--ref", "Kaldi text with the references"),
            _path("--hyp", "folder of the hypotheses"),
            _path("--out", "file to write, for --calibration of decode and transcribe"),
        ),
    ),
    "transcribe": Verb(
        "transcribe audio files",
        (
            _path("--model", "model folder or experiment"),
            _path("files", "audio files", many=True),
            *_SEARCH,
            _CALIBRATION,
        ),
    ),
    "report": Verb("write report.html", (_path("experiments", "experiment folders", many=True),)),
    "plan": Verb(
        "parameters, FLOPs, memory and days of a training (--config, --set: the training's), before it runs",
        (
            Arg("--gpus", "number of GPUs", kind="int"),
            Arg("--kind", "pretrain or finetune, where the configuration does not say"),
            Arg("--vocab-size", "word pieces (fine-tuning; default 1024)", kind="int"),
            Arg("--utterance-seconds", "length of all utterances (fine-tuning; default 12)", kind="float"),
            Arg("--tokens-per-second", "word pieces a second of speech (fine-tuning; default 4)", kind="float"),
            Arg("--peak-tflops", "of a GPU (default: H100 or H200, dense: 989 in bf16, 67 in fp32)", kind="float"),
            Arg(
                "--utilisation", "share of the peak that the model's FLOPs reach (default 0.22, measured)", kind="float"
            ),
            Arg("--gpu-memory-gb", "GiB of a GPU (default 80)", kind="float"),
        ),
        of_training=True,
    ),
    "config": Verb("print the defaults of a verb's configuration", (Arg("verb", "verb"),)),
    "doctor": Verb("say what this machine and installation have and lack", ()),
}


_RESOURCE_ERRNOS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EFBIG)
)


class _Parser(argparse.ArgumentParser):
    """argparse, with the nearest name for an option that does not exist."""

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1, cutoff=0.5)
            self.error(f"unknown option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
        return namespace


def _parser(name: str, verb: Verb) -> _Parser:
    parser = _Parser(prog=f"w2vbert {name}", description=verb.help, allow_abbrev=False)
    kinds = {"path": Path, "text": str, "int": int, "float": float}
    for arg in verb.args:
        options: dict[str, Any] = {"help": arg.help}
        if arg.kind == "flag":
            options.update(action="store_true", default=None)
        else:
            options.update(type=kinds[arg.kind])
            if arg.many:
                options.update(nargs="+")
        if arg.name.startswith("--"):
            options.update(dest=arg.target)
            parser.add_argument(arg.name, **options)
        else:
            parser.add_argument(arg.name, nargs=options.pop("nargs", "?"), **options)
    parser.add_argument("--config", type=Path, help="YAML file with the configuration")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one key of the configuration")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    return parser


def _normalize(argument: str) -> str:
    """Dash and underscore are alike in option names: --max_steps is --max-steps."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "usage: w2vbert VERB [options]      (w2vbert VERB --help)\n\n" + "\n".join(lines)


def _parse(argv: Sequence[str]) -> tuple[str, Any, bool]:
    """(verb, configuration, json) of a command line."""
    name = argv[0]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        _exit(2, f"unknown verb {name!r}" + (f"; did you mean {near[0]}?" if near else "\n" + _usage()))
    verb = VERBS[name]
    namespace = _parser(name, verb).parse_strictly([_normalize(argument) for argument in argv[1:]])
    given = vars(namespace)
    options = {arg.target: given[arg.target] for arg in verb.args if given.get(arg.target) is not None}
    path, settings = namespace.config, list(namespace.set)
    if verb.of_training:
        options |= {"config_file": path, "settings": settings}
        path, settings = None, []
    module = importlib.import_module(f"w2vbert_asr.commands.{name}")
    return name, configuration.load(module.Config, path, settings, options), namespace.json


def _exit(code: int, message: str) -> NoReturn:
    print(f"w2vbert: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code of DESIGN section 1 (0, 2 to 6, 75, 130, or 1 for a bug)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    keep_freed_memory()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        name, config, as_json = _parse(argv)
        result = importlib.import_module(f"w2vbert_asr.commands.{name}").run(config)
        if as_json:
            print(json.dumps(result or {}, ensure_ascii=False), flush=True)
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except UserError as error:
        print(f"w2vbert {argv[0]}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        print(f"w2vbert {argv[0]}: out of memory ({error}); use smaller batches or fewer jobs", file=sys.stderr)
        return 5
    except OSError as error:
        if error.errno not in _RESOURCE_ERRNOS:
            traceback.print_exc()
            return 1
        where = f"{error.filename}: " if error.filename else ""
        print(f"w2vbert {argv[0]}: {where}{error.strerror}; free the disk or choose another --out", file=sys.stderr)
        return 5
    except Exception:  # noqa: BLE001 - the one place that turns a bug into exit code 1, traceback and all
        traceback.print_exc()
        return 1
