# SPDX-License-Identifier: Apache-2.0
"""The processor: images, states and actions equal to the reference's, and mismatches refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chefmate_policy.groot.config import GrootConfig
from chefmate_policy.groot.errors import ConfigurationError, InputError
from chefmate_policy.groot.images import frames_to_tensor, pixel_values, resized
from chefmate_policy.groot.metadata import EmbodimentMetadata, read_metadata, write_metadata
from chefmate_policy.groot.processor import PROCESSOR, Processor, ProcessorSettings, Sample, read_settings
from chefmate_policy.groot.prompt import PromptForm
from chefmate_policy.groot.published import CONFIG, EAGLE
from chefmate_policy.groot.statistics import NAMES, KeyStatistics, Mode, Normaliser
from chefmate_policy.groot.tokenizer import small_tokenizer
from chefmate_policy.units import JointUnit

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "processing"
LEVEL = 1 / 127.5  # one of 255 levels in pixel_values
SMALL = small_tokenizer()
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
DEGREES = (*(JointUnit(name, "degrees") for name in JOINTS), JointUnit("gripper", "0..100", -0.17, 1.74))


@pytest.fixture(scope="module")
def metadata() -> EmbodimentMetadata:
    entries = json.loads((GOLDEN / "metadata.json").read_text())
    return EmbodimentMetadata.from_dict("new_embodiment", entries["new_embodiment"])


@pytest.fixture(scope="module")
def config() -> GrootConfig:
    """The published sizes with the small tokenizer's image token."""
    return GrootConfig.from_dict(CONFIG, {**EAGLE, "image_token_index": SMALL.image_id})


@pytest.fixture(scope="module")
def processor(config: GrootConfig, metadata: EmbodimentMetadata) -> Processor:
    return Processor(config, metadata, ProcessorSettings.of_metadata(metadata), SMALL)


@pytest.fixture(scope="module")
def frames() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "frames.npz"))


@pytest.fixture(scope="module")
def normalised() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "normalisation.safetensors")


def test_images_are_the_references(processor: Processor, frames: dict[str, np.ndarray]) -> None:
    golden = load_file(GOLDEN / "images.safetensors")
    exact = resized(frames_to_tensor([frames["front"], frames["wrist"]]), 224)
    torch.testing.assert_close(exact, golden["resized_float"], rtol=0, atol=1e-6)
    difference = (processor.images(frames) - golden["pixel_values"]).abs()
    assert difference.max() <= 1.001 * LEVEL
    assert difference.mean() <= 0.1 * LEVEL


def test_truncated_levels_become_pixel_values_exactly() -> None:
    golden = torch.from_numpy(np.load(GOLDEN / "eval_images.npz")["uint8_224"]).permute(0, 3, 1, 2)
    values = pixel_values((golden.to(torch.float32) + 0.5) / 255.0)
    assert torch.equal(values, load_file(GOLDEN / "images.safetensors")["pixel_values"])


def test_frames_in_reversed_channel_order_are_read_without_mixing(frames: dict[str, np.ndarray]) -> None:
    front = frames["front"]
    reversed_view = np.ascontiguousarray(front[:, :, ::-1])[:, :, ::-1]
    assert torch.equal(frames_to_tensor([reversed_view]), frames_to_tensor([front]))


def test_random_crop_stays_in_the_frame_and_keeps_the_centre_as_default(
    frames: dict[str, np.ndarray],
) -> None:
    stacked = frames_to_tensor([frames["front"]])
    assert torch.equal(resized(stacked, 224, corner=(12, 16)), resized(stacked, 224))
    assert not torch.equal(resized(stacked, 224, corner=(0, 0)), resized(stacked, 224))
    with pytest.raises(InputError, match="leaves the 480x640 frame"):
        resized(stacked, 224, corner=(25, 0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_states_and_actions_are_normalised_as_the_reference_does(
    processor: Processor, normalised: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    suffix = str(dtype).removeprefix("torch.")
    for name, normaliser in (
        ("state", processor.state_normaliser),
        ("action", processor.action_normaliser),
    ):
        own = normaliser.normalise(normalised[f"raw_{name}"].to(dtype))
        golden = normalised[f"{name}_{suffix}"]
        assert own.dtype == golden.dtype
        torch.testing.assert_close(own, golden[..., :6], rtol=tolerance, atol=tolerance)
        assert not golden[..., 6:].any()


def test_state_action_and_masks_are_padded_as_the_reference_does(
    processor: Processor, normalised: dict[str, torch.Tensor]
) -> None:
    state = processor.state(normalised["raw_state"][0])
    torch.testing.assert_close(state, normalised["state_float64"].float(), rtol=1e-6, atol=1e-7)
    action, mask = processor.action(normalised["raw_action"])
    torch.testing.assert_close(action, normalised["action_float64"].float(), rtol=1e-6, atol=1e-7)
    assert torch.equal(mask, normalised["action_mask"])


def test_model_output_is_restored_as_the_reference_does(
    processor: Processor, normalised: dict[str, torch.Tensor]
) -> None:
    parts = processor.split(processor.actions(normalised["model_output"][None]))
    for key in ("single_arm", "gripper"):
        torch.testing.assert_close(parts[key][0], normalised[f"unnorm_{key}"], rtol=1e-6, atol=1e-5)


def test_actions_survive_normalisation_and_back(
    processor: Processor, normalised: dict[str, torch.Tensor]
) -> None:
    raw = normalised["raw_action"]
    there = processor.action_normaliser.normalise(raw)
    torch.testing.assert_close(processor.action_normaliser.restore(there), raw, rtol=0, atol=1e-10)


def test_steps_after_the_episodes_end_do_not_count(
    processor: Processor, normalised: dict[str, torch.Tensor]
) -> None:
    _, mask = processor.action(normalised["raw_action"], steps=5)
    assert mask[:5, :6].all() and not mask[5:].any() and not mask[:, 6:].any()


def test_q99_clips_and_passes_constants() -> None:
    statistics = KeyStatistics((9.0, 0.4), (-9.0, 0.4), (0.0, 0.4), (1.0, 0.0), (-2.0, 0.4), (2.0, 0.4))
    normaliser = Normaliser([("state.x", statistics, Mode.Q99)])
    values = normaliser.normalise(torch.tensor([[1.0, 0.3], [5.0, 0.4], [-5.0, 0.4]]))
    torch.testing.assert_close(values, torch.tensor([[0.5, 0.3], [1.0, 0.4], [-1.0, 0.4]]))
    torch.testing.assert_close(normaliser.restore(values)[:, 1], torch.full((3,), 0.4))


def test_mean_std_is_a_plain_score() -> None:
    statistics = KeyStatistics((9.0,), (-9.0,), (1.0,), (2.0,), (-2.0,), (2.0,))
    normaliser = Normaliser([("state.x", statistics, Mode.MEAN_STD)])
    assert normaliser.normalise(torch.tensor([9.0])).tolist() == [4.0]
    assert normaliser.restore(torch.tensor([4.0])).tolist() == [9.0]


def test_inference_and_training_inputs_are_one_and_the_same(
    processor: Processor, frames: dict[str, np.ndarray], normalised: dict[str, torch.Tensor]
) -> None:
    """Alone, and in a batch beside a longer prompt, an observation becomes the same tensors."""
    state, raw = normalised["raw_state"][0], normalised["raw_action"]
    alone = processor.inputs(frames, state, "open the box")
    batch = processor.batch(
        [
            Sample(frames, state, "open the box", raw),
            Sample(frames, state, "pick up the yellow cheese and put it into the white plate", raw),
            Sample(frames, state, None, raw),
        ]
    )
    assert alone.attention_mask is None and batch.attention_mask is not None
    assert batch.action is not None and batch.action.shape == (3, 16, 32)
    kept = batch.attention_mask[0].bool()
    assert torch.equal(batch.input_ids[0][kept], alone.input_ids[0])
    assert not kept[0] and (batch.input_ids[0][~kept] == SMALL.pad_id).all()
    assert torch.equal(batch.pixel_values[:2], alone.pixel_values)
    assert torch.equal(batch.state[0], alone.state[0])
    assert batch.embodiment_id.tolist() == [31, 31, 31]
    assert (alone.input_ids == SMALL.image_id).sum() == 2 * 256


def test_order_of_the_given_cameras_does_not_matter(
    processor: Processor, frames: dict[str, np.ndarray]
) -> None:
    turned = {name: frames[name] for name in ("wrist", "front")}
    assert torch.equal(processor.images(turned), processor.images(frames))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frames: {"front": frames["front"]}, "missing wrist"),
        (lambda frames: frames | {"top": frames["front"]}, "unknown top"),
        (lambda frames: {"front": frames["front"], "scene": frames["wrist"]}, "missing wrist unknown scene"),
        (lambda frames: frames | {"wrist": frames["wrist"][:240, :320]}, "camera wrist gives 320x240"),
        (lambda frames: frames | {"wrist": frames["wrist"][:, :, 0]}, "frame 1 is uint8 (480, 640)"),
    ],
)
def test_wrong_cameras_are_refused_by_name(
    processor: Processor, frames: dict[str, np.ndarray], change: Any, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        processor.images(change(frames))
    assert words in str(caught.value)


def test_a_state_that_is_not_finite_or_of_another_length_is_refused_by_name(processor: Processor) -> None:
    with pytest.raises(InputError, match=r"state.single_arm\[2\]"):
        processor.state([0.0, 0.0, float("nan"), 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match="5 values for 6"):
        processor.state([0.0] * 5)


def test_samples_without_actions_beside_samples_with_are_refused(
    processor: Processor, frames: dict[str, np.ndarray], normalised: dict[str, torch.Tensor]
) -> None:
    state, raw = normalised["raw_state"][0], normalised["raw_action"]
    with pytest.raises(InputError, match="1 of 2 samples"):
        processor.batch([Sample(frames, state, "", raw), Sample(frames, state, "")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras": ("front", "top")}, "top"),
        ({"state": {"arm": Mode.MIN_MAX}}, "arm"),
        ({"embodiment": "dog"}, "dog"),
        ({"joints": DEGREES[:5]}, "5 joints"),
        ({"joints": tuple(JointUnit(j.joint, "rad") for j in DEGREES)}, "shoulder_pan runs from"),
        (
            {"joints": (*(JointUnit(name, "-100..100", -1.0, 1.0) for name in JOINTS), DEGREES[5])},
            "elbow_flex runs from",
        ),
    ],
)
def test_settings_that_contradict_the_metadata_are_refused_by_name(
    config: GrootConfig, metadata: EmbodimentMetadata, change: dict[str, Any], words: str
) -> None:
    settings = replace(ProcessorSettings.of_metadata(metadata), **change)
    with pytest.raises(ConfigurationError) as caught:
        Processor(config, metadata, settings, SMALL)
    assert words in str(caught.value)


def test_statistics_in_rad_are_not_taken_for_degrees(
    config: GrootConfig, metadata: EmbodimentMetadata
) -> None:
    def rad(statistics: KeyStatistics) -> KeyStatistics:
        return KeyStatistics(*(tuple(np.radians(getattr(statistics, name))) for name in NAMES))

    arm = {"state": dict(metadata.state), "action": dict(metadata.action)}
    for keys in arm.values():
        keys["single_arm"] = rad(keys["single_arm"])
    turned = replace(metadata, **arm)
    settings = replace(ProcessorSettings.of_metadata(turned), joints=DEGREES)
    with pytest.raises(ConfigurationError, match="probably in rad"):
        Processor(config, turned, settings, SMALL)
    Processor(config, metadata, replace(ProcessorSettings.of_metadata(metadata), joints=DEGREES), SMALL)


def test_the_other_models_tokenizer_is_refused(metadata: EmbodimentMetadata) -> None:
    published = GrootConfig.from_dict(CONFIG)
    with pytest.raises(ConfigurationError, match="image token is 151669"):
        Processor(published, metadata, ProcessorSettings.of_metadata(metadata), SMALL)


def test_settings_and_metadata_survive_their_files(metadata: EmbodimentMetadata, tmp_path: Path) -> None:
    settings = ProcessorSettings(
        cameras=("wrist", "front"),
        state={"gripper": Mode.Q99, "single_arm": Mode.MIN_MAX},
        action={"single_arm": Mode.MEAN_STD, "gripper": Mode.MIN_MAX},
        crop=1.0,
        prompt=PromptForm.INSTRUCTION_FIRST,
        joints=DEGREES,
    )
    write_metadata(tmp_path, metadata)
    settings.write(tmp_path)
    read = read_metadata(tmp_path, "new_embodiment")
    assert read == metadata
    assert read_settings(tmp_path, read) == settings
    assert list(read_settings(tmp_path, read).state) == ["gripper", "single_arm"]


def test_a_checkpoint_without_settings_is_read_as_the_reference_trains(
    metadata: EmbodimentMetadata, tmp_path: Path
) -> None:
    settings = read_settings(tmp_path, metadata)
    assert settings.cameras == ("front", "wrist") and settings.crop == 0.95
    assert settings.prompt is PromptForm.PLAIN and set(settings.state.values()) == {Mode.MIN_MAX}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"promt": "plain"}', "promt"),
        ('{"prompt": "loud"}', "loud"),
        ("{", "not JSON"),
        ('{"crop": "a"}', "crop"),
    ],
)
def test_a_wrong_settings_file_is_refused(
    metadata: EmbodimentMetadata, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / PROCESSOR).write_text(content)
    with pytest.raises((ConfigurationError, InputError)) as caught:
        read_settings(tmp_path, metadata)
    assert words in str(caught.value) or PROCESSOR in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda entry: entry["statistics"]["state"]["gripper"].pop("q99"), "lack q99"),
        (lambda entry: entry["statistics"]["action"]["gripper"].update(min=[100.0]), "exceeds max"),
        (lambda entry: entry["statistics"]["state"]["single_arm"].update(max=[1.0]), "differ in length"),
        (lambda entry: entry["statistics"]["action"].pop("gripper"), "gripper"),
        (lambda entry: entry["modalities"]["video"]["front"].pop("fps"), "video.front"),
        (lambda entry: entry.pop("statistics"), "no statistics"),
    ],
)
def test_damaged_metadata_is_refused_by_key(damage: Any, words: str) -> None:
    entry = json.loads((GOLDEN / "metadata.json").read_text())["new_embodiment"]
    damage(entry)
    with pytest.raises(ConfigurationError) as caught:
        EmbodimentMetadata.from_dict("new_embodiment", entry)
    assert words in str(caught.value)


def test_a_base_checkpoint_cannot_drive_an_arm_it_never_saw(
    metadata: EmbodimentMetadata, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="does not say which statistics"):
        read_metadata(tmp_path, "new_embodiment")
    write_metadata(tmp_path, replace(metadata, tag="gr1"))
    with pytest.raises(ConfigurationError, match=r"it has: gr1.*fine-tuned on the robot"):
        read_metadata(tmp_path, "new_embodiment")
