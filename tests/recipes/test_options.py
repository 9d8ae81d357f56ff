"""The recipes' driver: options, stages, inputs and exit codes, with a stand-in for w2vbert that records its calls."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training.runs import wait_for

ROOT = Path(__file__).parents[2]
RECIPES = ["mini", "an4", "mini_librispeech", "folder", "librispeech", "librilight"]
SCRIPTS = sorted([*ROOT.glob("tools/*.sh"), *ROOT.glob("recipes/*/*.sh"), ROOT / ".ci/run"])
SETS = {
    "mini": "train dev test",
    "an4": "train_nodev train_dev test",
    "mini_librispeech": "train dev test dev_clean test_clean train_clean_100",
    "folder": "train dev test",
    "librispeech": "train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other",
    "librilight": "small train-clean-100 dev-clean dev-other test-clean test-other",
}


def _hear_ctrl_c() -> None:
    """A shell cannot trap what it was started to ignore, as tests in the background are."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Driver:
    """Runs recipes from `folder` with their data, dump and exp below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        (folder / "env/bin").mkdir(parents=True)
        (folder / "env/bin/w2vbert").symlink_to(ROOT / "tests/recipes/fake_w2vbert.sh")

    def run(self, recipe: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(recipe, *arguments, **env)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, recipe: str, *arguments: str, script: str = "run.sh", **env: str) -> subprocess.Popen[str]:
        places = [f"--{name}-dir={name}" for name in ("data", "dump", "exp")]
        environment = {
            "PATH": f"{self.folder / 'env/bin'}:{os.environ['PATH']}",
            "W2VBERT_ENV": str(self.folder / "env"),
            "CALLS": str(self.calls_file),
            "SETS": SETS[recipe],
            **env,
        }
        command = [str(ROOT / "recipes" / recipe / script), *places, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=_hear_ctrl_c
        )

    def calls(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.calls_file.read_text().splitlines()]

    def call(self, verb: str) -> list[str]:
        return next(call for call in self.calls() if call[0] == verb)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_script_is_executable_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""
    sourced = script.name in ("parse_options.sh", "recipe.sh", "recipe_options.sh")
    assert os.access(script, os.X_OK) != sourced


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_lists_the_options_of_every_recipe(driver: Driver, recipe: str) -> None:
    done = driver.run(recipe, "--help")
    assert done.returncode == 0
    for name in "stage stop-stage corpus unlabelled data-dir dump-dir exp-dir nproc tag seed vocab-size".split():
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"  --{name} ")]
        assert len(lines) == 1, name
    assert not driver.calls_file.exists()


def test_help_shows_default_and_comment_of_the_recipe(driver: Driver) -> None:
    lines = driver.run("an4", "--help").stdout.splitlines()
    speeds = next(line for line in lines if line.startswith("  --speeds "))
    assert speeds.startswith('  --speeds "0.9 1.0 1.1"  ')
    assert speeds.endswith("  copies of the training sets at these speeds")


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_stages_in_order(driver: Driver, recipe: str) -> None:
    done = driver.run(recipe, "--corpus", "corpus", *(["--librispeech", "lib"] if recipe == "librilight" else []))
    assert done.returncode == 0, done.stderr
    verbs = list(dict.fromkeys(call[0] for call in driver.calls()))
    stages = "prepare validate fbank tokenizer pretrain finetune average decode score report"
    assert verbs == stages.split()
    for call in driver.calls():
        assert f"+ w2vbert {call[0]} " in done.stderr
    last = done.stdout.splitlines()[-1]
    assert "WER 12.50 % (1 errors in 8 words: 1 sub, 0 del, 0 ins), CER 3.25 %, 2 utterances" in last


def test_each_stage_calls_its_verb_with_its_folders(driver: Driver) -> None:
    assert driver.run("an4", "--corpus", "an4 corpus", "--nproc", "3", "--tag", "x", "--seed=7").returncode == 0
    at = str(driver.folder)
    calls = driver.calls()
    assert calls[0] == ["prepare", "an4", "--source", f"{at}/an4 corpus", "--out", f"{at}/data", "--num-jobs", "3"]
    folders = [f"{at}/data/{name}" for name in SETS["an4"].split()]
    assert calls[1] == ["validate", *folders, "--num-jobs", "3"]
    speeds = ["--stats", "--speeds", "0.9", "1.0", "1.1"]
    fbank = [["fbank", f"{at}/data/{name}", "--out", f"{at}/dump/{name}"] for name in SETS["an4"].split()]
    assert [call[:-2] for call in calls[2:5]] == [fbank[0] + speeds, fbank[1], fbank[2]]
    assert option(calls[5], "--text") == f"{at}/data/train_nodev/text"
    assert option(calls[5], "--out") == f"{at}/data/tokenizer"
    pretrain, finetune = driver.call("pretrain"), driver.call("finetune")
    assert option(pretrain, "--train") == option(finetune, "--train") == f"{at}/dump/train_nodev"
    assert option(pretrain, "--dev") == option(finetune, "--dev") == f"{at}/dump/train_dev"
    assert option(pretrain, "--out") == f"{at}/exp/pretrain_own" and option(pretrain, "--seed") == "7"
    assert option(finetune, "--out") == f"{at}/exp/asr_x" and option(finetune, "--seed") == "7"
    assert option(finetune, "--init") == f"{at}/exp/pretrain_own/model"
    assert option(finetune, "--tokenizer") == f"{at}/data/tokenizer/bpe.model"
    assert option(driver.call("average"), "--out") == f"{at}/exp/asr_x/model"
    assert option(driver.call("decode"), "--model") == f"{at}/exp/asr_x/model"
    decoded = [option(call, "--out") for call in calls if call[0] == "decode"]
    assert decoded == [f"{at}/exp/asr_x/decode/train_dev", f"{at}/exp/asr_x/decode/test"]
    score = [call for call in calls if call[0] == "score"][1]
    assert option(score, "--ref") == f"{at}/data/test/text"
    assert option(score, "--hyp") == f"{decoded[1]}/text" and option(score, "--out") == decoded[1]
    assert calls[-2:] == [["report", f"{at}/exp/pretrain_own"], ["report", f"{at}/exp/asr_x"]]


def test_unlabelled_folders_join_pre_training_alone(driver: Driver) -> None:
    sets = f"{SETS['mini']} unlabelled_LJ-1.1 unlabelled_my_audio"
    done = driver.run("mini", "--unlabelled", "LJ-1.1,/some/my audio/", SETS=sets)
    assert done.returncode == 0, done.stderr
    at = str(driver.folder)
    folders = [call for call in driver.calls() if call[:2] == ["prepare", "folder"]]
    assert [option(call, "--source") for call in folders] == [f"{at}/LJ-1.1", "/some/my audio/"]
    assert folders[1][-1] == "folder.set_name=unlabelled_my_audio"
    pretrain = driver.call("pretrain")
    train = pretrain[pretrain.index("--train") + 1 : pretrain.index("--dev")]
    assert train == [f"{at}/dump/{name}" for name in ("train", "unlabelled_LJ-1.1", "unlabelled_my_audio")]
    finetune = driver.call("finetune")
    assert finetune[finetune.index("--train") + 1 : finetune.index("--dev")] == [f"{at}/dump/train"]
    assert "--stats" in next(call for call in driver.calls() if call[:2] == ["fbank", f"{at}/data/unlabelled_LJ-1.1"])
    assert driver.run("mini", "--unlabelled", "a/x,b/x").returncode == 2


@pytest.mark.parametrize("pretrain", ["none", "own", "all"])
def test_an4_pre_trains_as_asked(driver: Driver, pretrain: str) -> None:
    sets = f"{SETS['an4']} unlabelled_more"
    done = driver.run("an4", "--corpus", "c", "--pretrain", pretrain, "--unlabelled", "more", SETS=sets)
    assert done.returncode == 0, done.stderr
    verbs = [call[0] for call in driver.calls()]
    assert ("pretrain" in verbs) == (pretrain != "none")
    assert ("--init" in driver.call("finetune")) == (pretrain != "none")
    assert any("unlabelled_more" in argument for call in driver.calls() for argument in call) == (pretrain == "all")
    assert option(driver.call("finetune"), "--out").endswith(f"/exp/asr_{pretrain}")


def test_an4_refuses_other_words(driver: Driver) -> None:
    assert driver.run("an4", "--pretrain", "some").returncode == 2
    assert driver.run("an4", "--pretrain", "all").returncode == 2


def test_another_start_replaces_pre_training(driver: Driver) -> None:
    start = ["--init", "/models/m", "--tokenizer", "/models/m/bpe.model"]
    assert driver.run("mini", *start, "--stop-stage", "3").returncode == 0
    assert {call[0] for call in driver.calls()} == {"prepare", "validate", "fbank"}
    done = driver.run("mini", "--stage", "4", "--init", "/models/m")
    assert done.returncode == 3 and "data/tokenizer/bpe.model, which stage 2 makes" in done.stderr


def test_another_search_decodes_to_another_folder(driver: Driver) -> None:
    assert driver.run("mini").returncode == 0
    driver.calls_file.unlink()
    assert driver.run("mini", "--stage", "5", "--search", "greedy").returncode == 0
    assert driver.run("mini", "--stage", "5", "--beam_size", "4").returncode == 0
    decodes = [call for call in driver.calls() if call[0] == "decode"]
    assert [Path(option(call, "--out")).parent.name for call in decodes] == ["decode_greedy", "decode_beam4"]
    assert option(decodes[0], "--search") == "greedy" and option(decodes[1], "--beam-size") == "4"


@pytest.mark.parametrize(("lm", "verb", "made"), [("ngram", "ngram", "lm.arpa"), ("transformer", "lm", "model")])
def test_a_language_model_is_trained_without_held_out_speakers_tuned_and_used(
    driver: Driver, lm: str, verb: str, made: str
) -> None:
    texts = ["--lm-text", "more,/some/other text", "--lm-lines", "lines.gz", "--lm-args", "--seed 3"]
    done = driver.run("an4", "--corpus", "c", "--lm", lm, "--lm-tag", "big", *texts, "--search", "maes")
    assert done.returncode == 0, done.stderr
    at = str(driver.folder)
    call = driver.call(verb)
    assert call[call.index("--text") + 1 : call.index("--lines")] == [
        f"{at}/data/train_nodev/text",
        f"{at}/more",
        "/some/other text",
    ]
    held_out = call[call.index("--held-out") + 1 : call.index("--text")]
    assert held_out == [f"{at}/data/train_dev", f"{at}/data/test"]
    assert option(call, "--lines") == f"{at}/lines.gz" and option(call, "--dev") == f"{at}/data/train_dev/text"
    assert call[-2:] == ["--seed", "3"] and option(call, "--tokenizer") == f"{at}/data/tokenizer/bpe.model"

    tune = driver.call("tune")
    assert option(tune, "--lm") == f"{at}/exp/lm_big/{made}" and option(tune, "--search") == "maes"
    assert option(tune, "--data") == f"{at}/dump/train_dev"
    decode = driver.call("decode")
    assert decode[-2:] == ["--config", f"{option(tune, '--out')}/decode.yaml"] and "--search" not in decode
    assert Path(option(decode, "--out")).parent.name == "decode_maes_big"


def test_a_language_model_that_is_not_there_and_other_mistakes_are_named(driver: Driver) -> None:
    assert driver.run("mini").returncode == 0
    done = driver.run("mini", "--stage", "5", "--lm", "ngram")
    assert done.returncode == 3 and "exp/lm_ngram/lm.arpa, which stage 2 makes" in done.stderr
    assert driver.run("mini", "--lm", "neural").returncode == 2
    assert driver.run("mini", "--lm", "ngram", "--decode-config", "/x.yaml").returncode == 2


def test_librispeech_sizes_choose_configurations(driver: Driver) -> None:
    done = driver.run("librispeech", "--download", "--size", "xl", "--labelled", "100h", "--corpus", "/c")
    assert done.returncode == 0, done.stderr
    assert "--download" in driver.call("prepare")
    assert option(driver.call("pretrain"), "--config") == "conf/pretrain_xl.yaml"
    assert option(driver.call("finetune"), "--config") == "conf/finetune_100h_xl.yaml"
    assert option(driver.call("finetune"), "--out").endswith("/exp/asr_100h_xl")
    assert driver.run("librispeech", "--size", "xxxl").returncode == 2


def test_several_gpus_train_under_torchrun(driver: Driver) -> None:
    assert driver.run("mini", "--stop-stage", "2").returncode == 0
    (driver.folder / "env/bin/torchrun").symlink_to(ROOT / "tests/recipes/fake_w2vbert.sh")
    options = ["--ngpu", "4", "--num-nodes", "2", "--node-rank", "1", "--master", "node0:1234"]
    assert driver.run("mini", "--stage", "3", "--stop-stage", "3", *options).returncode == 0
    expected = "--nnodes 2 --node-rank 1 --nproc-per-node 4 --master-addr node0 --master-port 1234 -m w2vbert_asr"
    assert driver.calls()[-1][:13] == [*expected.split(), "pretrain"]
    assert driver.run("mini", *options).returncode == 2  # the stages before would run on every machine


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_signals_are_passed_on_to_the_training(driver: Driver, number: int, code: int) -> None:
    assert driver.run("mini", "--stop-stage", "2").returncode == 0
    process = driver.start("mini", "--stage", "3", WAIT_VERB="pretrain")
    wait_for(Path(f"{driver.calls_file}.waits").exists)
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert driver.calls()[-1][0] == "pretrain"  # no stage after it


def test_a_slurm_job_saves_and_goes_back_into_the_queue(driver: Driver) -> None:
    """With stand-ins for SLURM's commands: two tasks, a signal to the job's script, a requeue."""
    assert driver.run("librispeech", "--corpus", "c", "--stop-stage", "2").returncode == 0
    (driver.folder / "env/bin/torchrun").symlink_to(ROOT / "tests/recipes/fake_w2vbert.sh")
    commands = {
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" & echo $! >>"$CALLS.tasks"; done; '
        "code=0; for task in $(cat $CALLS.tasks); do wait $task || code=$?; done; exit $code",
        "scontrol": 'if [[ $1 == show ]]; then printf "node7\\nnode8\\n"; else echo "$@" >>"$CALLS.scontrol"; fi',
        "scancel": 'echo "$@" >>"$CALLS.scancel"; kill -TERM $(cat "$CALLS.tasks")',
    }
    for name, text in commands.items():
        (driver.folder / "env/bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (driver.folder / "env/bin" / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT / "recipes/librispeech"), "SLURM_JOB_NODELIST": "node[7-8]"}
    slurm |= {"SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "WAIT_VERB": "--nnodes"}
    options = ["--stage", "3", "--stop-stage", "3", "--size", "base"]
    options += [f"--{name}-dir={driver.folder / name}" for name in ("data", "dump", "exp")]
    process = driver.start("librispeech", *options, script="slurm.sh", **slurm)
    wait_for(lambda: driver.calls_file.read_text().count("--nnodes 2") == 2)
    wait_for(Path(f"{driver.calls_file}.waits").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) == 75
    calls = [shlex.join(call) for call in driver.calls()[-2:]]
    assert sorted(call.partition(" --nproc")[0] for call in calls) == [
        "--nnodes 2 --node-rank 0",
        "--nnodes 2 --node-rank 1",
    ]
    assert all("--nproc-per-node 8 --master-addr node7 --master-port 29500 -m w2vbert_asr pretrain" in c for c in calls)
    assert Path(f"{driver.calls_file}.scancel").read_text() == "--signal=TERM 42\n"
    assert Path(f"{driver.calls_file}.scontrol").read_text() == "requeue 42\n"


def test_options_in_every_spelling(driver: Driver) -> None:
    spellings = (["--stop_stage", "0"], ["--stop-stage=0"], ["--stop_stage=0"], ["--stop-stage", "0"])
    for spelling in spellings:
        assert driver.run("mini", "--nproc=1", *spelling).returncode == 0
    calls = driver.calls()
    assert len(calls) == 8 and calls[:2] * 4 == calls


def test_values_that_look_like_options(driver: Driver) -> None:
    assert driver.run("mini", "--stop-stage", "3", "--pretrain-args", "--max-steps 5 --set a=b").returncode == 0
    assert driver.call("pretrain")[-4:] == ["--max-steps", "5", "--set", "a=b"]
    done = driver.run("mini", "--stage", "--stop-stage", "3")
    assert done.returncode == 2 and "--stage needs a value" in done.stderr


def test_all_mistakes_at_once(driver: Driver) -> None:
    done = driver.run("mini", "--stge", "3", "--nproc", "two", "--corpsu=x", "left over")
    assert done.returncode == 2
    mistakes = done.stderr.splitlines()
    assert len(mistakes) == 4
    assert mistakes[0].endswith("unknown option --stge; did you mean --stage?")
    assert mistakes[1].endswith("--nproc takes a whole number, not 'two'")
    assert mistakes[2].endswith("unknown option --corpsu=x; did you mean --corpus?")
    assert "left over" in mistakes[3]
    assert not driver.calls_file.exists()


@pytest.mark.parametrize("stages", [["--stage", "7"], ["--stage", "3", "--stop-stage", "2"], ["--stop-stage", "9"]])
def test_stages_out_of_range(driver: Driver, stages: list[str]) -> None:
    assert driver.run("mini", *stages).returncode == 2


@pytest.mark.parametrize(
    ("stage", "missing", "maker"),
    [
        (1, "data/train/wav.scp", 0),
        (2, "data/train/text", 0),
        (3, "dump/train/feats.scp", 1),
        (4, "data/tokenizer/bpe.model", 2),
        (4, "exp/pretrain_base/model/MANIFEST.json", 3),
        (5, "exp/asr_base/checkpoints", 4),
        (6, "exp/asr_base/decode/test/text", 5),
    ],
)
def test_missing_input_names_file_and_stage(driver: Driver, stage: int, missing: str, maker: int) -> None:
    assert driver.run("mini").returncode == 0
    path = driver.folder / missing
    path.rename(path.with_name("away"))
    driver.calls_file.unlink()
    done = driver.run("mini", "--stage", str(stage), "--stop-stage", str(stage))
    assert done.returncode == 3
    assert f"{path}, which stage {maker} makes" in done.stderr
    assert f"--stage {maker}\n" in done.stderr
    assert not driver.calls_file.exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_s01_nothing_prepared(driver: Driver, recipe: str) -> None:
    """A late stage first says what is missing first."""
    done = driver.run(recipe, "--stage", "5")
    assert done.returncode == 3
    assert "which stage 0 makes" in done.stderr.splitlines()[3]
    assert sorted(path.name for path in driver.folder.iterdir()) == ["env"]


@pytest.mark.parametrize(("verb", "code"), [("prepare", 3), ("pretrain", 75), ("decode", 1)])
def test_exit_codes_of_the_verbs_pass_through(driver: Driver, verb: str, code: int) -> None:
    done = driver.run("mini", FAIL_VERB=verb, FAIL_CODE=str(code))
    assert done.returncode == code
    assert driver.calls()[-1][0] == verb


def test_awkward_names(driver: Driver) -> None:
    """D15: nothing in a path is run or split."""
    corpus = "it's $(touch pwned) `touch pwned` & 100% [a] *"
    done = driver.run("mini_librispeech", "--corpus", corpus, "--data-dir", "d & d", "--dump-dir", "a,b")
    assert done.returncode == 0, done.stderr
    assert option(driver.call("prepare"), "--source") == str(driver.folder / corpus)
    assert (driver.folder / "d & d/train/text").exists() and (driver.folder / "a,b/train/feats.scp").exists()
    assert not (driver.folder / "pwned").exists() and not (ROOT / "recipes/mini_librispeech/pwned").exists()


def test_paths_are_of_the_caller_and_inputs_also_of_the_recipe(driver: Driver) -> None:
    (driver.folder / "mine.yaml").touch()
    configs = ["--pretrain-config", "mine.yaml", "--finetune-config", "conf/finetune.yaml"]
    assert driver.run("mini", "--stop-stage", "4", *configs).returncode == 0
    assert option(driver.call("pretrain"), "--config") == str(driver.folder / "mine.yaml")
    assert option(driver.call("finetune"), "--config") == "conf/finetune.yaml"
