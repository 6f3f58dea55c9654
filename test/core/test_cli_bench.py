"""`lisa bench` with the tiny shape: what it writes, and that its comparison notices a broken cache."""

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli import run
from PIL import Image

from lisa_core import footprint, template
from lisa_core.benchmark import baseline, cases, cost, machine, shapes, stages
from lisa_core.benchmark.cases import Measurement
from lisa_core.benchmark.machine import PeakMemory
from lisa_core.benchmark.random_model import ANSWER, RandomCheckpoint
from lisa_core.benchmark.subject import Subject
from lisa_core.benchmark.words import word_tokenizer
from lisa_core.inference import cuda_graphs
from lisa_core.model.language import Language

CASES = ["new_frame_8", "new_frame_40", "same_frame_8", *(f"turn_{n}" for n in range(1, 7)), "mask_only"]
STAGES = ["preprocess", "clip", "sam", "prefill", "per_token", "mask_decode", "upsample"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread: those of a tiny model would mostly wait for each other, even more so beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run with everything: what was printed, the JSON, the chart."""
    folder = tmp_path_factory.mktemp("bench")
    numbers, chart = folder / "numbers.json", folder / "chart.png"
    result = run("bench", "--shape", "tiny", "--runs", 1, "--baseline", "--json", numbers, "--chart", chart)
    assert result.code == 0, result.errors
    return result.out, json.loads(numbers.read_text()), chart.read_bytes()


def test_every_case_is_timed_and_compared(measured):
    _, report, _ = measured
    assert [case["name"] for case in report["cases"]] == CASES
    for case in report["cases"]:
        assert 0 < case["seconds_p50"] <= case["seconds_p95"]
        assert case["ratio"] == pytest.approx(case["baseline_seconds"] / case["seconds_p50"])
        assert case["masks"] >= 1
        assert case["limit_seconds"] is None  # no GPU, no limit


def test_the_numbers_are_written_before_they_are_printed(tmp_path):
    numbers = tmp_path / "new" / "numbers.json"
    command = "from lisa_core.cli import main; main()"
    words = ["bench", "--shape", "tiny", "--runs", "1", "--json", str(numbers)]
    ended = subprocess.run(
        ["sh", "-c", '"$@" >/dev/full', "sh", sys.executable, "-c", command, *words],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 1
    assert "error: Standard output is full or closed" in ended.stderr
    assert [case["name"] for case in json.loads(numbers.read_text())["cases"]] == CASES


def test_what_cannot_be_written_is_printed_all_the_same(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "x.json")

    monkeypatch.setattr("lisa_core.files.write_whole", full)
    result = run("bench", "--shape", "tiny", "--runs", 1, "--json", tmp_path / "x.json")
    assert result.code == 1
    assert "new frame, 8 tokens" in result.out
    assert "error: No space left on device: x.json" in result.errors


def test_two_results_in_one_file(tmp_path):
    one = tmp_path / "one"
    result = run("bench", "--shape", "tiny", "--json", one, "--chart", tmp_path / "." / "one")
    assert result.code == 2
    assert "--json and --chart cannot go into one file" in result.errors


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("lisa_core.cli.bench._load", None)
    result = run("bench", "--shape", "tiny", "--json", "/proc/numbers.json")
    assert result.code == 1
    assert "/proc/numbers.json" in result.errors


def test_what_the_memory_cannot_hold_is_not_measured(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 10 kB\nSwapFree: 0 kB\n")
    monkeypatch.setattr(footprint, "_MEMINFO", meminfo)
    result = run("bench", "--shape", "tiny", "--runs", 1)
    assert result.code == 1
    assert "random-tiny in fp32 takes 0.02 GiB of weights, but only 0.00 GiB of memory are free here" in result.errors


def test_answers_are_as_long_as_their_cases_say(measured):
    tokens = {case["name"]: case["tokens"] for case in measured[1]["cases"]}
    assert tokens.pop("new_frame_40") == 40
    assert tokens.pop("mask_only") == len(word_tokenizer(703).encode([template.Special(template.SEG), "."]))
    assert set(tokens.values()) == {8}


def test_the_cached_answers_are_the_uncached_ones(measured):
    _, report, _ = measured
    assert report["equal"] is True
    assert all(case["tokens_equal"] and case["mask_distance"] < 1e-3 for case in report["cases"])


def test_a_turn_reads_its_own_words_only(measured):
    read = {case["name"]: case["read_tokens"] for case in measured[1]["cases"]}
    later = [read[f"turn_{n}"] for n in range(2, 7)]
    assert max(later) == min(later) < 40  # the same number each, however long the history is
    assert read["new_frame_8"] > 256


def test_the_stages_and_what_they_ran_on_are_told(measured):
    _, report, _ = measured
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert all(stage["seconds_p50"] > 0 for stage in report["stages"])
    assert report["machine"]["cpu"]
    assert report["settings"]["precision"] == "fp32"
    assert report["settings"]["runs"] == 1
    assert set(report["peak_memory"]) == {"loading", "answering", "baseline"}
    held = sum(size for part, size in report["model"]["memory"].items() if part != "kv_cache")
    assert held == 4 * sum(report["model"]["parameters"].values())


def test_the_chart_is_a_picture_with_something_on_it(measured):
    with Image.open(io.BytesIO(measured[2])) as chart:
        assert chart.format == "PNG"
        assert min(chart.size) > 400
        assert len(np.unique(np.asarray(chart.convert("RGB")).reshape(-1, 3), axis=0)) > 16


def test_people_read_a_table(measured):
    out, _, _ = measured
    for words in ("random tiny", "new frame, 40 tokens", "turn 6", "per token", "Every answer is the baseline's"):
        assert words in out


def test_a_broken_cache_is_noticed(monkeypatch, tmp_path):
    forward = Language.forward

    def forgetful(self, embeddings, cache, start):
        cache.values[:, :, :start] *= 0.5
        return forward(self, embeddings, cache, start)

    monkeypatch.setattr(Language, "forward", forgetful)
    numbers = tmp_path / "numbers.json"
    result = run("bench", "--shape", "tiny", "--runs", 1, "--baseline", "--json", numbers)
    assert result.code == 1
    assert "same_frame_8" in result.errors
    assert "not those of the baseline" in result.errors
    assert json.loads(numbers.read_text())["equal"] is False


def test_masks_that_only_one_of_both_has_are_no_number(monkeypatch, tmp_path):
    asked = baseline.ask

    def maskless(*words, **options):
        answer = asked(*words, **options)
        return replace(answer, low_res_logits=answer.low_res_logits[:0])

    monkeypatch.setattr(baseline, "ask", maskless)
    numbers = tmp_path / "numbers.json"
    result = run("bench", "--shape", "tiny", "--runs", 1, "--baseline", "--json", numbers)
    assert result.code == 1
    assert "The answers of new_frame_8" in result.errors
    report = json.loads(numbers.read_text(), parse_constant=pytest.fail)
    assert report["equal"] is False
    assert {case["mask_distance"] for case in report["cases"]} == {None}


def test_an_answer_in_one_piece_has_no_time_per_token(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "LONG", 1)
    numbers = tmp_path / "numbers.json"
    assert run("bench", "--shape", "tiny", "--runs", 1, "--json", numbers).code == 0
    named = [stage["name"] for stage in json.loads(numbers.read_text())["stages"]]
    assert named == [name for name in STAGES if name != "per_token"]


def test_too_little_memory_is_told(monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr(baseline, "ask", exhausted)
    result = run("bench", "--shape", "tiny", "--runs", 1, "--baseline")
    assert result.code == 1
    assert "cpu has too little memory for this checkpoint in fp32" in result.errors


def test_without_a_baseline_nothing_is_compared(tmp_path):
    numbers = tmp_path / "numbers.json"
    assert run("bench", "--shape", "tiny", "--runs", 1, "--precision", "nf4", "--json", numbers).code == 0
    report = json.loads(numbers.read_text())
    assert report["equal"] is None
    assert all(case["ratio"] is None for case in report["cases"])
    assert report["settings"]["precision"] == "nf4"


def test_wrong_usage():
    assert "not both" in run("bench", "--shape", "tiny", "--checkpoint", "there").errors
    assert "go with --checkpoint" in run("bench", "--shape", "tiny", "--template", "llava_v1").errors
    result = run("bench", "--shape", "huge")
    assert result.code == 2
    assert "tiny, small, 7b, 13b" in result.errors


def test_a_chart_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("bench", "--shape", "13b", "--chart", tmp_path / "chart.png")
    assert result.code == 1
    assert "pip install '.[charts]'" in result.errors


@pytest.mark.parametrize("name", shapes.BY_NAME)
def test_the_planted_answer_uses_each_word_once(name):
    tokenizer = word_tokenizer(shapes.BY_NAME[name].language.vocabulary)
    said = tokenizer.encode(["Where? ASSISTANT:", *ANSWER])[-6:]
    assert len(set(said)) == 6
    assert tokenizer.encode([tokenizer.decode(said[1:-1])])[1:] == said[1:-1]  # encodes to the same ids


def test_the_limit_of_a_token_is_the_weights_over_the_bandwidth():
    shape = shapes.BY_NAME["7b"]
    sizes = {"clip": 600 << 20, "mm_projector": 2 << 20, "language": 4 * 10**9, "sam": 1300 << 20}
    costs = cost.Costs(shape, sizes, element=2)
    gpu = cost.known_gpu("NVIDIA H200", 132)
    assert gpu.seconds(costs.read(1, 320)) == pytest.approx(0.8e-3, rel=0.1)
    assert gpu.seconds(costs.read(320, 0)) == pytest.approx(2 * 6.6e9 * 320 / 989e12, rel=0.1)
    assert gpu.seconds(costs.sam()) > gpu.seconds(costs.clip())


@pytest.mark.parametrize(
    ("name", "multiprocessors"),
    [
        (None, None),
        ("some other", 132),
        ("NVIDIA GH200 480GB", 132),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 76),
        ("NVIDIA GeForce RTX 4090 D", 114),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 16),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 42),
        ("Orin", 14),  # AGX Orin of 32 GB
        ("Orin", 8),  # Orin NX and Nano
    ],
)
def test_a_gpu_whose_peaks_are_not_known_has_no_limit(name, multiprocessors):
    assert cost.known_gpu(name, multiprocessors) is None


@pytest.mark.parametrize(
    ("name", "multiprocessors"),
    [("NVIDIA H100 80GB HBM3", 132), ("NVIDIA A100-SXM4-80GB", 108), ("NVIDIA GeForce RTX 4090", 128), ("Orin", 16)],
)
def test_a_gpu_whose_peaks_are_known(monkeypatch, name, multiprocessors):
    about = SimpleNamespace(name=name, multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    facts = machine.facts(torch.device("cuda"))
    assert cost.known_gpu(facts["gpu"], facts["gpu_multiprocessors"]) is not None


def test_the_cost_of_sam_is_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    from lisa_core.model.sam import Sam

    shape = shapes.BY_NAME["tiny"]
    with torch.device("meta"):
        sam, pixels = Sam(shape.sam), torch.empty(1, 3, shape.sam.image, shape.sam.image)
    with FlopCounterMode(display=False) as counted:
        sam.encode(pixels)
    expected = cost.Costs(shape, {"sam": 0}, element=4).sam().flops
    assert expected == pytest.approx(counted.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("growth", [256, 200])  # a conversation fits, or makes the cache grow
def test_nothing_is_recorded_any_more_while_a_gpu_is_measured(monkeypatch, growth):
    recorded, done = [], []

    def capture(work):
        work()
        recorded.append((list(done), [tuple(tensor.shape) for tensor in work.__self__._given]))
        return work

    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: capture)
    monkeypatch.setattr("lisa_core.inference.prefix_cache._GROWTH", growth)
    monkeypatch.setattr(Subject, "synchronise", lambda _: None)
    monkeypatch.setattr(cases, "PeakMemory", lambda _: SimpleNamespace(restart=lambda: None, read=dict))
    cpu = torch.device("cpu")
    subject = Subject.load("random tiny", RandomCheckpoint.of("tiny", "fp32", cpu), "fp32", cpu)
    on_gpu = replace(subject, device=torch.device("cuda"))
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    measured = [case.name for case in Measurement(on_gpu, picture, 2, False, done.append).cases()]
    assert measured == CASES
    assert len(recorded) >= 5
    assert [during for during, _ in recorded if during] == []


def test_a_gpu_is_made_ready_before_its_peak_is_forgotten(monkeypatch):
    """Torch initialises the GPU itself for all memory counters but this one."""
    order = []
    for name in ("init", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: order.append(name))
    PeakMemory(torch.device("cuda", 0))
    assert order == ["init", "reset_peak_memory_stats"]
