"""Checkpoints of trainers: prefixes, several state dicts, counters, and what is said of them."""

import argparse
import collections
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import errors, predict, predictor, pretrained
from cnn_jax.pretrained import source
from cnn_jax.pretrained.fitting import naming
from cnn_jax.pretrained.network import Network
from cnn_jax.train import start
from tests.pretrained import checkpoints, torch_files
from tests.pretrained.checkpoints import NETWORK, failure
from tests.train import test_start

ENTRIES = checkpoints.state_dict()
DOUBLED = {key: 2 * array for key, array in ENTRIES.items()}
MODULE = {f"module.{key}": array for key, array in DOUBLED.items()}
COUNT = np.array(3, np.float32)
# Without tensors, so that no state dict can be meant.
OPTIMIZER = {"state": {0: {"momentum_buffer": np.zeros(2, np.float32)}}, "param_groups": [{}]}
SETTINGS = argparse.Namespace(lr=0.1, output_dir=PurePosixPath("runs"), betas=(0.9, 0.999))


def prefixed(prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}{key}": array for key, array in ENTRIES.items()}


def assert_loaded(found: pretrained.Pretrained, scale: int = 1) -> None:
    """Asserts that the variables are those of `ENTRIES`, times a factor."""
    mine = pretrained.to_torch(NETWORK, found.variables)
    assert mine.keys() == ENTRIES.keys()
    for key, array in ENTRIES.items():
        np.testing.assert_array_equal(mine[key], scale * array)


@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "module.", "_orig_mod.", "backbone.", "state_dict.", "encoder."),
        *("module._orig_mod.", "model.backbone.", "a.b.c."),
    ],
)
def test_a_prefix_of_all_names_is_removed_and_named(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoints.safetensors(prefixed(prefix)))
    found = pretrained.load(path, name=NETWORK)
    assert_loaded(found)
    (note,) = found.notes
    assert note.startswith("removed '")
    assert note.replace("', '", "").startswith(f"removed '{prefix}'")
    assert_loaded(pretrained.load(path, name=NETWORK, prefix=prefix))


def test_exact_names_are_left_alone(tmp_path: Path) -> None:
    """All names of a body without head begin with 'features.', which is no prefix."""
    path = tmp_path / "a.safetensors"
    body = {key: array for key, array in ENTRIES.items() if key.startswith("features.")}
    path.write_bytes(checkpoints.safetensors(body))
    assert pretrained.load(path, name=NETWORK, num_classes=0).notes == ()
    path.write_bytes(checkpoints.safetensors(ENTRIES))
    assert pretrained.load(path, name=NETWORK).notes == ()


def test_wrappers_of_inner_layers_are_removed(tmp_path: Path) -> None:
    """torch.compile, FSDP and checkpointing of layers put names into the middle."""
    inner = "features._orig_mod.", "features._fsdp_wrapped_module._checkpoint_wrapped_module."
    for part in inner:
        names = {key.replace("features.", part): array for key, array in ENTRIES.items()}
        path = torch_files.save(tmp_path / "a.pth", names)
        found = pretrained.load(path, name=NETWORK)
        assert_loaded(found)
        assert "_orig_mod." in found.notes[0] or "_fsdp_wrapped_module." in found.notes[0]
    both = {**ENTRIES, "features._orig_mod.0.weight": ENTRIES["features.0.weight"]}
    assert "equal without the wrappers" in failure(
        torch_files.save(tmp_path / "b.pth", both), name=NETWORK
    )


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.encoder_q"])
def test_a_prefix_can_be_chosen(tmp_path: Path, prefix: str) -> None:
    """MoCo's checkpoints have two encoders and a queue."""
    keys = {f"module.encoder_k.{key}": array for key, array in DOUBLED.items()}
    names = {**keys, **prefixed("module.encoder_q."), "module.queue": np.zeros((2, 3), np.float32)}
    path = torch_files.save(tmp_path / "a.pth", {"state_dict": names})
    found = pretrained.load(path, name=NETWORK, prefix=prefix)
    assert_loaded(found)
    (note,) = found.notes
    assert note.startswith(f"left out {len(ENTRIES) + 1} of {len(names)} names, which do not begin")
    assert_loaded(pretrained.load(f"{path}#prefix={prefix}", name=NETWORK))
    assert_loaded(pretrained.load(path, name=NETWORK, prefix="module.encoder_k."), 2)
    message = failure(path, name=NETWORK)
    assert (
        f"{len(ENTRIES)} names fit below 'module.encoder_k.' or 'module.encoder_q.'; p" in message
    )
    assert "put '#prefix=module.encoder_k.' at the end of the path" in message
    assert failure(path, name=NETWORK, prefix="net").startswith(
        "no name begins with the prefix 'net.'; names: 'module.encoder_k.features.0.weight'"
    )


def test_from_torch_names_the_prefix() -> None:
    with pytest.raises(errors.UserError, match=r"52 names fit below 'model\.'; pass prefix="):
        pretrained.from_torch(NETWORK, prefixed("model."), num_classes=10)


def test_an_averaged_model_is_loaded(tmp_path: Path) -> None:
    """torch.optim.swa_utils.AveragedModel has the prefix and a counter without it."""
    path = torch_files.save(tmp_path / "a.pth", {"n_averaged": COUNT, **MODULE})
    found = pretrained.load(path, name=NETWORK)
    assert_loaded(found, 2)
    assert found.notes == (
        "removed 'module.' from the names",
        "left out entries that are no weights: 'n_averaged'",
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("epoch", [3, COUNT, None, "third", [3], {"last": 3}])
def test_entries_beside_the_tensors_are_left_out(tmp_path: Path, epoch: Any, legacy: bool) -> None:
    path = torch_files.save(tmp_path / "a.pth", {**ENTRIES, "epoch": epoch}, legacy=legacy)
    found = pretrained.load(path, name=NETWORK)
    assert_loaded(found)
    assert found.notes == ("left out entries that are no weights: 'epoch'",)


def test_scalars_of_layers_are_not_left_out(tmp_path: Path) -> None:
    path = torch_files.save(tmp_path / "a.pth", {**ENTRIES, "features.scale": COUNT})
    assert failure(path, name=NETWORK).endswith("unexpected: features.scale ()")


# Torchvision's references/classification/train.py, timm's CheckpointSaver, PyTorch Lightning, and
# kuangliu/pytorch-cifar; with the classes that Python's pickler writes for their values.
TRAINERS = {
    "torchvision": {
        "model": ENTRIES,
        "optimizer": OPTIMIZER,
        "lr_scheduler": torch_files.raw({"milestones": collections.Counter([3, 5])}),
        "epoch": 3,
        "args": torch_files.raw(SETTINGS),
        "model_ema": {"n_averaged": COUNT, **MODULE},
    },
    "timm": {
        "epoch": 3,
        "arch": NETWORK,
        "state_dict": ENTRIES,
        "optimizer": OPTIMIZER,
        "args": torch_files.raw(SETTINGS),
        "amp_scaler": {"scale": 65536},
        "state_dict_ema": DOUBLED,
        "metric": torch_files.raw(np.float64(76.1)),
    },
    "lightning": {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed("model."),
        "callbacks": {"ModelCheckpoint": {"best_model_score": COUNT}},
        "hyper_parameters": torch_files.raw(collections.OrderedDict(lr=0.1)),
        "loops": torch_files.raw(collections.defaultdict(list, a=[1])),
    },
    "cifar": {"net": prefixed("module."), "acc": 95, "epoch": 3, "rng": np.zeros(9, np.uint8)},
}
NOTES = {
    "torchvision": ["took 'model', not 'model_ema'; for another, pass state='model_ema', or put "],
    "timm": ["took 'state_dict', not 'state_dict_ema'; for another, pass state='state_dict_ema'"],
    "lightning": ["removed 'model.' from the names"],
    "cifar": ["took 'net'", "removed 'module.' from the names"],
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_checkpoint_of_a_trainer_is_loaded_and_said(tmp_path: Path, trainer: str) -> None:
    path = torch_files.save(tmp_path / "model_best.pth.tar", TRAINERS[trainer])
    found = pretrained.load(path, name=NETWORK)
    assert_loaded(found)
    assert len(found.notes) == len(NOTES[trainer])
    for note, expected in zip(found.notes, NOTES[trainer], strict=True):
        assert note.startswith(expected)


@pytest.mark.parametrize(
    ("trainer", "state"), [("torchvision", "model_ema"), ("timm", "state_dict_ema")]
)
def test_another_state_dict_can_be_chosen(tmp_path: Path, trainer: str, state: str) -> None:
    path = torch_files.save(tmp_path / "a.pth", TRAINERS[trainer])
    for found in (
        pretrained.load(path, name=NETWORK, state=state),
        pretrained.load(f"{path}#state={state}", name=NETWORK),
        pretrained.load(Path(f"{path}#state={state}"), name=NETWORK),
    ):
        assert_loaded(found, 2)
        assert not any(note.startswith("took") for note in found.notes)
    assert set(pretrained.read_state_dict(path, state)) >= {
        f"{'module.' if trainer == 'torchvision' else ''}{key}" for key in ENTRIES
    }
    usual = state.removesuffix("_ema")
    assert failure(path, name=NETWORK, state="ema").endswith(
        f"unknown entry of the checkpoint with a state dict: 'ema'; allowed: {usual}, {state}"
    )


def test_several_state_dicts_without_a_usual_name_are_a_choice(tmp_path: Path) -> None:
    """DINO's checkpoints have a student and a teacher."""
    top = {"student": prefixed("module.backbone."), "teacher": {**MODULE}, "epoch": 1}
    path = torch_files.save(tmp_path / "a.pth", top)
    assert failure(path, name=NETWORK) == (
        f"{path}: contains several state dicts: student, teacher; choose one with state=NAME, or "
        "'#state=NAME' at the end of the path"
    )
    chosen = f"{path}#state=student&prefix=module.backbone."
    assert_loaded(pretrained.load(chosen, name=NETWORK))
    assert_loaded(pretrained.load(path, name=NETWORK, state="teacher"), 2)


def test_choices_after_a_path_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a#state=b.safetensors"
    path.write_bytes(checkpoints.safetensors(ENTRIES))
    assert_loaded(pretrained.load(path, name=NETWORK))  # the name of a file
    for text in ("ema", "state=", "weights=ema", "state=a&x=b"):
        message = failure(f"{tmp_path}/a.pth#{text}", name=NETWORK)
        assert "is unknown; allowed: state=NAME" in message
    assert source.split("resnet50.a1_in1k") == ("resnet50.a1_in1k", {})
    other = tmp_path / "a.safetensors"
    other.write_bytes(checkpoints.safetensors(ENTRIES))
    assert "has one state dict, as all" in failure(other, name=NETWORK, state="model")


@pytest.mark.parametrize("name", ["model.ckpt", "weights", "weights.v2", "model_best.pth.tar"])
def test_a_file_in_the_current_directory_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch_files.save(tmp_path / name, ENTRIES)
    assert_loaded(pretrained.load(name, name=NETWORK))
    assert predictor.load(name, name=NETWORK).input_shape == (224, 224, 3)
    message = "its network is unknown; pass the network's name as name= or --model="
    assert message in failure(name)


def test_a_missing_file_is_no_name_on_the_hub() -> None:
    for name in ("model.ckpt", "pytorch_model.bin", "model_best.pth.tar", "net.onnx"):
        assert failure(name, name=NETWORK) == f"{name} cannot be read: No such file or directory"


def test_the_command_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = torch_files.save(tmp_path / "a.pth", TRAINERS["torchvision"])
    image = tmp_path / "a.ppm"
    image.write_bytes(b"P6 40 40 255\n" + bytes(4800))
    given = f"{path}#state=model_ema"
    monkeypatch.setattr(
        "sys.argv", ["predict", f"--weights={given}", f"--model={NETWORK}", str(image)]
    )
    assert predict.main() == 0
    assert capsys.readouterr().err == (
        f"{given}: removed 'module.' from the names\n"
        f"{given}: left out entries that are no weights: 'n_averaged'\n"
    )


@pytest.mark.parametrize("progress", [False, True])
def test_a_run_says_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    entries = checkpoints.state_dict("resnet18", **test_start.OPTIONS)
    names = {f"module.{key}": array for key, array in entries.items()}
    given = f"{torch_files.save(tmp_path / 'a.pth', {'ema': names, 'net': entries})}#state=ema"
    plan = test_start.config(**{"init.weights": given})
    plan, found = start.find(plan)
    class_names = test_start.SOURCE.class_names
    fitted = start.fit(plan, found, class_names, progress=progress)
    kernel = np.asarray(fitted.variables["params/conv1/kernel"])
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), entries["conv1.weight"])
    assert capsys.readouterr().err == progress * (
        f"init.weights {given}: removed 'module.' from the names\n"
        f"init.weights {given}: the head for 4 classes is new; the weights have a head for 10 "
        "classes\n"
    )


def test_a_name_of_many_dots_takes_little_memory() -> None:
    network = Network.of("lenet", None, {})
    given = {"a." * 200_000: np.zeros(1, np.float32)}
    assert naming.rename(network, given) == (given, ())
    assert naming.hint(network, given) == ""


def test_variables_below_zero_cannot_be_variances() -> None:
    flat = traverse_util.flatten_dict(
        checkpoints.random_variables({("batch_stats", "norm", "var"): (3,)}), sep="."
    )
    for name in ("bn1.running_var", "bn/moving_variance", *flat):
        with pytest.raises(errors.UserError, match=rf"^'{name}' has 1 of 3 variances below 0"):
            pretrained.convert.floats(name, np.array([0.0, 1.0, -1e-6], np.float32))
