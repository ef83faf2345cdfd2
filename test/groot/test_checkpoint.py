# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in every layout in which they are found, damaged ones, and saving in the published layout."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from chefmate_policy.groot.adapter import save_adapter
from chefmate_policy.groot.checkpoint import load_model, load_processor, open_checkpoint
from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import ConfigurationError, GrootError
from chefmate_policy.groot.hub import HubError, locate
from chefmate_policy.groot.layouts import CheckpointError
from chefmate_policy.groot.metadata import read_metadata
from chefmate_policy.groot.model import Groot, Parts, published_shapes
from chefmate_policy.groot.processor import ProcessorSettings
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.groot.published import CONFIG
from chefmate_policy.groot.saving import save_checkpoint
from chefmate_policy.groot.tokenizer import small_tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SLOT = 1  # of the golden model's embodiments
LANGUAGE = "backbone.eagle_model.language_model."
LM_HEAD, EMBEDDINGS = f"{LANGUAGE}lm_head.weight", f"{LANGUAGE}model.embed_tokens.weight"
QUERY = "action_head.model.transformer_blocks.0.attn1.to_q"
STATE_ENCODER = "action_head.state_encoder.layer1.W"
NORM = "action_head.vlln.weight"


@pytest.fixture(scope="module")
def config() -> GrootConfig:
    return GrootConfig.from_dict(json.loads((GOLDEN / "a" / "config.json").read_text()))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "a" / "model.safetensors")


@pytest.fixture
def write(tmp_path: Path, config: GrootConfig) -> Callable[..., Path]:
    """Writes tensors as the public checkpoint is: shards, index, config.json, metadata."""

    def make(tensors: Mapping[str, Tensor], shards: int = 3, name: str = "checkpoint") -> Path:
        folder = tmp_path / name
        (folder / "experiment_cfg").mkdir(parents=True)
        shutil.copy(GOLDEN / "processing" / "metadata.json", folder / "experiment_cfg")
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        keys = list(tensors)
        if shards == 1:
            save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        places = {}
        for number in range(shards):
            shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            part = keys[number * len(keys) // shards : (number + 1) * len(keys) // shards]
            save_file({key: tensors[key] for key in part}, folder / shard, metadata={"format": "pt"})
            places |= dict.fromkeys(part, shard)
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return make


def assert_same(state: Mapping[str, Tensor], weights: Mapping[str, Tensor], slots: list[int]) -> None:
    for key, tensor in state.items():
        expected = weights[key]
        if tensor.shape != expected.shape:
            expected = expected[slots]
        assert torch.equal(tensor, expected.to(tensor.dtype)), key


def test_published_shards_load_whole_and_in_parts(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    checkpoint = open_checkpoint(write(weights))
    whole = load_model(checkpoint).state_dict()
    assert set(whole) == set(weights)
    assert_same(whole, weights, [])
    used = load_model(checkpoint, Parts.used(SLOT)).state_dict()
    assert LM_HEAD not in used and used[STATE_ENCODER].shape[0] == 1
    assert_same(used, weights, [SLOT])


def test_loaded_model_answers_as_the_reference(write: Callable[..., Path], case_a: Any) -> None:
    model = load_model(open_checkpoint(write(case_a.weights)))
    actions = model.get_action(case_a.inputs(), noise=case_a.tensors["in.infer_noise"])
    golden = case_a.tensors["out.infer.actions"]
    assert (actions - golden).abs().max() <= 1e-5 * golden.abs().max()


def test_weights_are_converted_on_the_way(write: Callable[..., Path], weights: dict[str, Tensor]) -> None:
    model = load_model(open_checkpoint(write(weights)), Parts.used(SLOT), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_same(model.state_dict(), weights, [SLOT])
    assert not model.training


def lerobot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"_groot_model.{key}": tensor for key, tensor in tensors.items()}


def single_level(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(".vision_model.vision_model.", ".vision_model."): t for key, t in tensors.items()}


def without(*keys: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in keys}


@pytest.mark.parametrize(
    "layout",
    [lerobot, single_level, without(LM_HEAD), lambda tensors: lerobot(single_level(tensors))],
    ids=["lerobot", "single_level", "no_lm_head", "lerobot_single_level"],
)
def test_other_layouts_load_as_the_published_one(
    write: Callable[..., Path], weights: dict[str, Tensor], layout: Callable[..., dict[str, Tensor]]
) -> None:
    model = load_model(open_checkpoint(write(layout(weights), shards=1)), Parts.used(SLOT))
    assert_same(model.state_dict(), weights, [SLOT])


def test_deduplicated_embeddings_are_found_under_the_key_that_was_kept(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    tied = weights | {LM_HEAD: weights[EMBEDDINGS]}
    model = load_model(open_checkpoint(write(lerobot(without(EMBEDDINGS)(tied)), shards=1)))
    assert_same(model.state_dict(), tied, [])


def test_a_save_of_the_library_that_drops_shared_tensors_loads(
    write: Callable[..., Path], weights: dict[str, Tensor], config: GrootConfig, tmp_path: Path
) -> None:
    """safetensors' own save_model, as LeRobot calls it on a model with tied embeddings."""
    policy = nn.Module()
    policy._groot_model = Groot(config)
    policy._groot_model.load_state_dict(weights)
    language: Any = policy._groot_model.backbone.eagle_model.language_model
    language.lm_head.weight = language.model.embed_tokens.weight
    folder = write({}, shards=1)
    save_model(policy, str(folder / "model.safetensors"))
    stored = load_file(folder / "model.safetensors")
    assert len(stored) == len(weights) - 1
    model = load_model(open_checkpoint(folder))
    assert_same(model.state_dict(), weights | {LM_HEAD: weights[EMBEDDINGS]}, [])


def test_lerobots_own_config_means_the_published_sizes(
    write: Callable[..., Path], weights: dict[str, Tensor], config: GrootConfig
) -> None:
    folder = write(lerobot(weights), shards=1)
    (folder / "config.json").write_text(json.dumps({"type": "groot", "chunk_size": 50}))
    with pytest.raises(CheckpointError, match=r"config.json makes it"):
        open_checkpoint(folder)
    model = load_model(open_checkpoint(folder, config=config), Parts.used(SLOT))
    assert_same(model.state_dict(), weights, [SLOT])


def test_checkpoint_of_the_first_upload_is_refused_with_the_reason(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    checkpoint = open_checkpoint(write(without("action_head.future_tokens.weight")(weights)))
    with pytest.raises(CheckpointError, match=r"future_tokens.*2025-07-08 has them"):
        load_model(checkpoint)


def test_missing_and_unexpected_keys_are_named_and_not_all_of_them(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    vision = [key for key in weights if ".vision_model.encoder.layers.0." in key]
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(write(without(*vision)(weights), name="missing")))
    assert f"lacks {len(vision)} of" in str(caught.value) and min(vision) in str(caught.value)
    assert len(vision) > 8 and "more" in str(caught.value) and len(str(caught.value)) < 2000
    with pytest.raises(CheckpointError, match=r"1 tensors.*eagle_linear"):
        open_checkpoint(write(weights | {"backbone.eagle_linear.weight": torch.ones(2)}, name="extra"))


def test_a_tensor_of_another_shape_is_named(write: Callable[..., Path], weights: dict[str, Tensor]) -> None:
    wrong = weights | {"action_head.vlln.weight": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"action_head.vlln.weight has shape \(3,\)"):
        open_checkpoint(write(wrong))


def test_keys_of_two_layouts_at_once_are_refused(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    both = weights | {"_groot_model.action_head.vlln.bias": torch.zeros(64)}
    with pytest.raises(CheckpointError, match="mixes two layouts"):
        open_checkpoint(write(both))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _header(file: Path) -> None:
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_cut, "truncated"), (_header, "damaged"), (_empty, "0 bytes"), (_pointer, "git lfs pull")],
)
def test_damaged_file_is_named(
    write: Callable[..., Path], weights: dict[str, Tensor], damage: Callable[[Path], None], words: str
) -> None:
    folder = write(weights)
    damage(folder / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors") as caught:
        open_checkpoint(folder)
    assert words in str(caught.value)


def test_value_that_is_not_finite_is_named_with_its_file(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    damaged = weights[f"{QUERY}.weight"].clone()
    damaged[3, 4] = float("nan")
    folder = write(weights | {f"{QUERY}.weight": damaged}, shards=1)
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*to_q.weight holds values"):
        load_model(open_checkpoint(folder))


def test_missing_shard_and_wrong_index_are_named(
    write: Callable[..., Path], weights: dict[str, Tensor]
) -> None:
    folder = write(weights)
    index = folder / "model.safetensors.index.json"
    original = index.read_text()
    entries = json.loads(original)
    entries["weight_map"]["action_head.extra"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=r"does not fit its files: action_head.extra"):
        open_checkpoint(folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"index.json is no index"):
        open_checkpoint(folder)
    index.write_text(original)
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model-00003-of-00003.safetensors"):
        open_checkpoint(folder)


def test_folders_that_are_no_checkpoint_say_why(tmp_path: Path, config: GrootConfig) -> None:
    with pytest.raises(ConfigurationError, match=r"no config.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigurationError, match="'llama' model"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled weights"):
        open_checkpoint(tmp_path)
    with pytest.raises(HubError, match="is a file"):
        locate(tmp_path / "config.json")
    with pytest.raises(HubError, match="does not exist"):
        locate(tmp_path / "nowhere")


def test_hub_without_network_or_cache_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match=r"nvidia/GR00T-N1.5-3B is not in the local cache.*hf download"):
        open_checkpoint("nvidia/GR00T-N1.5-3B")


def test_checkpoint_in_the_hubs_cache_is_found_without_network(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "models--nvidia--GR00T-N1.5-3B"
    (cache / "refs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    write(weights).rename(cache / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    checkpoint = open_checkpoint("nvidia/GR00T-N1.5-3B")
    assert checkpoint.base.name == "abc123" and len(checkpoint.weights.files) == 3


def test_full_size_files_have_the_published_keys_and_shapes(tmp_path: Path) -> None:
    """899 tensors in three shards of the published size: headers as published, holes instead of numbers."""
    shapes = published_shapes(GrootConfig.from_dict(CONFIG))
    counts = json.loads((GOLDEN / "counts.json").read_text())
    assert len(shapes) == 899 and sum(map(math.prod, shapes.values())) == counts["total_untied"]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    keys, places = list(shapes), {}
    for number in range(3):
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        part = keys[number * 300 : (number + 1) * 300]
        entries, at = {}, 0
        for key in part:
            end = at + 2 * math.prod(shapes[key])
            entries[key] = {"dtype": "BF16", "shape": list(shapes[key]), "data_offsets": [at, end]}
            at = end
        text = json.dumps(entries).encode()
        with (tmp_path / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)
        places |= dict.fromkeys(part, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    checkpoint = open_checkpoint(tmp_path)
    assert {key: tensor.shape for key, tensor in checkpoint.weights.tensors.items()} == counts_shapes(counts)
    assert checkpoint.read(STATE_ENCODER, slots=(31,)).shape == (1, 64, 1024)


def counts_shapes(counts: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in counts["state_dict_shapes"].items()}


# Adapters


@pytest.fixture
def adapter(write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """LoRA on one projection, a trained embodiment slot and norm, on the base in tmp_path/base."""
    base = write(weights, name="base")
    out, inputs = weights[f"{QUERY}.weight"].shape
    random = torch.Generator().manual_seed(5)
    factors = (torch.randn(4, inputs, generator=random), torch.randn(out, 4, generator=random))
    trained = {STATE_ENCODER: 7.0 + weights[STATE_ENCODER][[SLOT]], NORM: 2.0 * weights[NORM]}
    folder = tmp_path / "adapter"
    save_adapter(folder, str(base), {QUERY: factors}, rank=4, alpha=8, trained=trained, embodiments=(SLOT,))
    return folder


def merged(weights: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    stored = load_file(adapter / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.{QUERY}.lora_{side}.weight"] for side in "AB")
    slot = weights[STATE_ENCODER].clone()
    slot[SLOT] += 7.0
    query = weights[f"{QUERY}.weight"] + 8 / 4 * b @ a
    return weights | {f"{QUERY}.weight": query, STATE_ENCODER: slot, NORM: 2.0 * weights[NORM]}


def test_adapter_is_merged_into_its_base(adapter: Path, weights: dict[str, Tensor]) -> None:
    model = load_model(open_checkpoint(adapter), Parts.used(SLOT))
    for key, tensor in model.state_dict().items():
        expected = merged(weights, adapter)[key]
        rows = expected if tensor.shape == expected.shape else expected[[SLOT]]
        torch.testing.assert_close(tensor, rows, rtol=1e-6, atol=1e-6)
    assert not torch.equal(model.state_dict()[f"{QUERY}.weight"], weights[f"{QUERY}.weight"])


def test_merged_adapter_saves_as_a_checkpoint_of_its_own(
    adapter: Path, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    source = open_checkpoint(adapter)
    save_checkpoint(load_model(source, Parts.used(SLOT)), tmp_path / "merged", source=source)
    whole = load_model(open_checkpoint(tmp_path / "merged")).state_dict()
    for key, expected in merged(weights, adapter).items():
        torch.testing.assert_close(whole[key], expected, rtol=1e-6, atol=1e-6)


def test_adapter_whose_base_is_elsewhere_says_so_and_takes_another(
    adapter: Path, write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="give that base"):
        open_checkpoint(adapter)
    assert open_checkpoint(adapter, base=tmp_path / "moved").base == tmp_path / "moved"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 8}, "has rank 4"),
        ({"base_model_name_or_path": None}, "names no base"),
    ],
)
def test_adapter_of_another_kind_is_refused(adapter: Path, change: dict[str, Any], words: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(adapter)


def test_rank_stabilised_scale_and_patterns_count(adapter: Path, weights: dict[str, Tensor]) -> None:
    file = adapter / "adapter_config.json"
    entry = json.loads(file.read_text())
    plain = open_checkpoint(adapter).read(f"{QUERY}.weight") - weights[f"{QUERY}.weight"]
    for change, factor in (({"use_rslora": True}, 2.0), ({"alpha_pattern": {"to_q": 24}}, 3.0)):
        file.write_text(json.dumps(entry | change))
        delta = open_checkpoint(adapter).read(f"{QUERY}.weight") - weights[f"{QUERY}.weight"]
        torch.testing.assert_close(delta, factor * plain, rtol=1e-4, atol=1e-4)


def test_adapter_of_another_model_is_refused(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    base = str(write(weights, name="base"))
    factors = (torch.zeros(2, 9), torch.zeros(5, 2))
    save_adapter(tmp_path / "one", base, {QUERY: factors}, rank=2, alpha=2)
    with pytest.raises(CheckpointError, match="factors of"):
        open_checkpoint(tmp_path / "one")
    save_adapter(tmp_path / "two", base, {"model.layers.0.q_proj": factors}, rank=2, alpha=2)
    with pytest.raises(CheckpointError, match="the model has no"):
        open_checkpoint(tmp_path / "two")


# Saving


def test_what_was_dropped_at_load_is_written_back(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    source = open_checkpoint(write(weights))
    model = load_model(source, Parts.used(SLOT))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    save_checkpoint(model, tmp_path / "saved", source=source, shard_bytes=800_000)
    names = sorted(file.name for file in (tmp_path / "saved").glob("*.safetensors"))
    assert len(names) >= 3 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    saved = load_model(open_checkpoint(tmp_path / "saved")).state_dict()
    assert set(saved) == set(weights)
    held = model.state_dict()
    for key, before in weights.items():
        expected = before.clone()
        if key in held:
            rows: Any = slice(None) if held[key].shape == before.shape else [SLOT]
            expected[rows] += 1.0
        assert torch.equal(saved[key], expected), key
    assert all((tmp_path / "saved" / name).stat().st_mode & 0o444 == 0o444 for name in names)
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == source.config.to_dict()
    assert read_metadata(tmp_path / "saved", "new_embodiment").fps == 30.0


def test_complete_save_without_the_dropped_parts_is_refused(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    model = load_model(open_checkpoint(write(weights)), Parts.used(SLOT))
    with pytest.raises(CheckpointError, match="no source checkpoint was given"):
        save_checkpoint(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_save_of_what_inference_reads_loads_for_that_slot_only(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    model = load_model(open_checkpoint(write(weights)), Parts.used(SLOT))
    save_checkpoint(model, tmp_path / "saved", complete=False)
    checkpoint = open_checkpoint(tmp_path / "saved")
    assert_same(load_model(checkpoint, Parts.used(SLOT)).state_dict(), weights, [SLOT])
    with pytest.raises(CheckpointError, match=r"slots \[1\] only"):
        load_model(checkpoint, Parts.used(0))
    with pytest.raises(CheckpointError, match="lacks"):
        load_model(checkpoint)


def test_processor_travels_with_the_checkpoint(
    write: Callable[..., Path], weights: dict[str, Tensor], config: GrootConfig, tmp_path: Path
) -> None:
    raw = config.to_dict()
    raw["eagle_cfg"]["image_token_index"] = small_tokenizer().image_id
    raw["eagle_cfg"]["text_config"]["vocab_size"] = len(small_tokenizer())
    small = GrootConfig.from_dict(raw)
    folder = write(weights, shards=1)
    (folder / "config.json").write_text(json.dumps(raw))
    metadata = read_metadata(folder, "new_embodiment")
    settings = ProcessorSettings.of_metadata(metadata)
    from chefmate_policy.groot.processor import Processor

    processor = Processor(small, metadata, settings, small_tokenizer())
    model = Groot(small)
    save_checkpoint(model, tmp_path / "saved", processor=processor)
    checkpoint = open_checkpoint(tmp_path / "saved")
    loaded = load_processor(checkpoint, prompt=PromptForm.INSTRUCTION_FIRST)
    assert loaded.metadata == metadata and loaded.settings.cameras == ("front", "wrist")
    assert loaded.settings.prompt is PromptForm.INSTRUCTION_FIRST
    assert loaded.tokenizer.source.startswith(str(tmp_path / "saved"))


def test_existing_folder_is_not_overwritten_and_a_failed_save_leaves_nothing(
    write: Callable[..., Path], weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(weights)
    model = load_model(open_checkpoint(folder))
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        save_checkpoint(model, folder)
    written = []

    def fail(*arguments: Any, **options: Any) -> None:
        if written:
            raise OSError("No space left on device")
        written.append(save_file(*arguments, **options))

    monkeypatch.setattr("chefmate_policy.groot.saving.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(model, tmp_path / "new", shard_bytes=500_000)
    assert written and [path.name for path in tmp_path.iterdir()] == [folder.name]


MEASURE = """
import json, sys
import torch
from chefmate_policy.groot.checkpoint import load_model, open_checkpoint
from chefmate_policy.groot.model import Parts

def memory():  # MiB, resident now and at most since the last look
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("VmHWM", "VmRSS")))
    return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]

checkpoint = open_checkpoint(sys.argv[1])
for dtype in (torch.float32, torch.bfloat16):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory()[0]
    model = load_model(checkpoint, Parts.used(0), dtype=dtype)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**20
    print(json.dumps({"size": size, "peak": memory()[1] - before}))
    del model
"""


def test_loading_needs_the_models_memory_once(tmp_path: Path, config: GrootConfig) -> None:
    """Peak resident memory, mapped pages included, of models of 200 and 100 MiB from a file of 400 MiB."""
    raw = config.to_dict()
    raw["eagle_cfg"]["text_config"]["vocab_size"] = 820_000
    large = GrootConfig.from_dict(raw)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    tensors = {key: torch.full(shape, 0.5) for key, shape in published_shapes(large).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    del tensors
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    block = 64  # MiB, mapped at a time
    for line, expected in zip(result.stdout.splitlines(), (200, 100), strict=True):
        measured = json.loads(line)
        assert measured["size"] == pytest.approx(expected, rel=0.05)
        assert measured["peak"] <= measured["size"] + block + 25, measured


def test_errors_are_of_one_family() -> None:
    assert issubclass(CheckpointError, GrootError) and issubclass(HubError, GrootError)
