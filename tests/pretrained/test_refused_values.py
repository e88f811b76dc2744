"""Values, dtypes and names that are refused or escaped, and outputs that are not finite."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cnn_jax import errors, predict, predictor, pretrained
from cnn_jax.data import crops
from cnn_jax.predictor.opening import EvalPreprocessing
from cnn_jax.pretrained import Preprocessing, fit
from cnn_jax.pretrained.keras import weights
from cnn_jax.pretrained.network import Network
from cnn_jax.runs import checkpoint
from tests.pretrained import checkpoints, weight_files
from tests.pretrained.checkpoints import CONFIG, NETWORK, failure
from tests.pretrained.weight_files import write_zip

ENTRIES = checkpoints.state_dict()
FIRST = "features.0.weight"  # [64, 3, 3, 3]
LIMITS = r"of cnn_jax/limits\.py"


@pytest.mark.parametrize(
    ("value", "count"), [("nan", 1), ("inf", 2), ("-inf", 1728), ("1e300", 1), ("-3.5e38", 3)]
)
def test_values_that_are_not_finite_are_refused(value: str, count: int, tmp_path: Path) -> None:
    array = ENTRIES[FIRST].astype(np.float64)
    array.flat[:count] = float(value)
    message = (
        f"'{FIRST}' has {count:,} of 1,728 values that are NaN, infinite or too large for "
        "float32; load other weights, such as an earlier checkpoint"
    )
    with pytest.raises(errors.UserError) as caught:
        pretrained.from_torch(NETWORK, {**ENTRIES, FIRST: array}, num_classes=10)
    assert str(caught.value) == message
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    directory = checkpoints.write(tmp_path / "hub", {**ENTRIES, FIRST: narrow})
    assert failure(directory) == message
    assert failure(directory, num_classes=3, new_head=True) == message
    assert failure(directory, num_classes=0) == message


def test_values_of_an_ignored_head_may_be_anything(tmp_path: Path) -> None:
    head = {key: array * np.nan for key, array in ENTRIES.items() if "classifier" in key}
    entries = {**ENTRIES, **head}
    directory = checkpoints.write(tmp_path / "hub", entries)
    assert pretrained.load(directory, num_classes=3, new_head=True)
    assert "'classifier.1.weight' has 5,120 of 5,120" in failure(directory)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "int64", "complex64"])
def test_weights_that_are_no_floats_are_refused(dtype: str) -> None:
    given = {**ENTRIES, FIRST: ENTRIES[FIRST].astype(dtype)}
    with pytest.raises(errors.UserError, match=f"^'{FIRST}' has the dtype {dtype}; weights must"):
        pretrained.from_torch(NETWORK, given, num_classes=10)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64"])
def test_files_of_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.safetensors"
    entries = {**ENTRIES, "classifier.1.bias": np.zeros(10, dtype)}
    safetensors.numpy.save_file(entries, path)
    assert failure(path, name=NETWORK).startswith(f"'classifier.1.bias' has the dtype {dtype}")


def test_keras_weights_are_checked_likewise() -> None:
    network = Network.of("mobilenetv1_100", None, pretrained.KERAS["mobilenetv1_100"])
    given = {
        key: np.zeros(shape, np.float32) for key, shape in weights.entries(network, 10).values()
    }
    given["conv1/kernel"][0, 0, 0, 0] = np.nan
    with pytest.raises(errors.UserError, match=r"^'conv1/kernel' has 1 of 864 values that are NaN"):
        pretrained.from_keras("mobilenetv1_100", given, num_classes=10)
    given["conv1/kernel"] = np.zeros((3, 3, 3, 32), np.complex64)
    with pytest.raises(errors.UserError, match=r"^'conv1/kernel' has the dtype complex64"):
        pretrained.from_keras("mobilenetv1_100", given, num_classes=10)


def test_variables_of_a_diverged_run_are_not_saved(tmp_path: Path) -> None:
    variables = checkpoints.random_variables(Network.of("lenet", None, {}).shapes(10))
    layer, arrays = next(iter(variables["params"].items()))
    kernel = arrays["kernel"]
    kernel[0] = np.nan
    count = f"{kernel[0].size:,} of {kernel.size:,} values"
    with pytest.raises(errors.UserError, match=rf"^'params\.{layer}\.kernel' has {count}"):
        pretrained.save(tmp_path / "a.safetensors", "lenet", variables)
    arrays["kernel"] = np.zeros(kernel.shape, np.int32)
    with pytest.raises(errors.UserError, match=rf"^'params\.{layer}\.kernel' has the dtype int32"):
        pretrained.save(tmp_path / "a.safetensors", "lenet", variables)
    assert list(tmp_path.iterdir()) == []


def test_saving_follows_no_planted_link(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "a.safetensors"
    other.write_text("kept")
    (tmp_path / f".{path.name}.{os.getpid()}.tmp").symlink_to(other)
    variables = checkpoints.random_variables(Network.of("lenet", None, {}).shapes(10))
    pretrained.save(path, "lenet", variables)
    assert other.read_text() == "kept"
    assert pretrained.load(path).name == "lenet"


def test_names_from_files_are_escaped_and_cut(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jevil\nerror: fake line"
    unexpected = {evil: np.zeros(0, np.float32), "\ud800" * 10**6: np.zeros(0, np.float32)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoints.safetensors(unexpected))
    with pytest.raises(errors.UserError) as caught:
        fit.check("lenet", {}, pretrained.read_state_dict(path))
    shown = r"unexpected: \x1b]0;owned\x07\x1b[2Jevil\nerror: fake line (0,)"
    cut = r"\ud800" * 99
    assert str(caught.value) == f"the weights do not fit lenet: {shown}; unexpected: {cut} (0,)"
    many = {f"{'n' * 50}{index}": 0 for index in range(20_000)}
    pickled = write_zip(tmp_path / "a.pth", {evil: 1, **many}, {})
    assert r"it has 20001 keys: \x1b]0;owned" in failure(pickled, name=NETWORK)
    config = {**CONFIG, "model_args": {f"{evil}{index}": evil * 9 for index in range(10_000)}}
    hub = checkpoints.write(tmp_path / "hub", ENTRIES, config)
    assert "and 9,995 more; allowed: in_chans" in failure(hub)


def test_many_names_are_counted(tmp_path: Path) -> None:
    tensors = {f"t{index}": weight_files.entry("F32", [0], 0, 0) for index in range(50_000)}
    path = weight_files.write_safetensors(tmp_path / "a.safetensors", tensors, b"")
    with pytest.raises(errors.UserError, match="50000 are unexpected") as caught:
        fit.check("lenet", {}, pretrained.read_state_dict(path))
    assert len(str(caught.value)) < 200


def test_escapes_in_class_names_are_printed_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["\x1b[2Jcat  0.9999", "\ud800", *"23456789"]
    settings = {**CONFIG["pretrained_cfg"], "label_names": names}  # type: ignore[dict-item]
    hub = checkpoints.write(tmp_path / "hub", ENTRIES, {**CONFIG, "pretrained_cfg": settings})
    image, table = tmp_path / "a.ppm", tmp_path / "a.csv"
    image.write_bytes(b"P6 40 40 255\n" + bytes(4800))
    monkeypatch.setattr("sys.argv", ["predict", f"--weights={hub}", "--top_k=10", str(image)])
    assert predict.main() == 0
    out = capsys.readouterr().out
    assert r"\x1b[2Jcat  0.9999" in out
    assert r"\ud800" in out
    assert "\x1b" not in out
    monkeypatch.setattr(
        "sys.argv", ["predict", f"--weights={hub}", "--top_k=10", f"--out={table}", str(image)]
    )
    assert predict.main() == 0
    assert b"\x1b" not in table.read_bytes()
    assert rb"\ud800" in table.read_bytes()


def test_an_output_that_is_not_finite_is_an_error_of_its_image() -> None:
    """Class 0 of the network is infinite for a white image, and finite for a black one."""
    found = predictor.Predictor(
        predict=lambda _, batch: {"logits": jnp.exp(99 * jnp.mean(batch["image"], (1, 2)))},
        variables={},
        preprocessing=Preprocessing(8, 8, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3),
        input_shape=(8, 8, 3),
        class_names=("a", "b", "c"),
    )
    black, white = np.zeros((2, 8, 8, 3), np.uint8)
    white[...] = 255
    first, second, third = found.each([black, white, black])
    assert isinstance(first, predictor.Prediction)
    assert isinstance(third, predictor.Prediction)
    np.testing.assert_allclose(first.probabilities, 1 / 3, rtol=1e-6)
    assert str(second).startswith("image 1: the network's probabilities are not finite")
    with pytest.raises(errors.UserError, match="probabilities are not finite"):
        found.top(white, 1)


@pytest.mark.xdist_group("trained")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_checkpoint_of_a_diverged_run_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """XLA on a CPU computes `max(NaN, 0)` as 0, so the outputs may be finite."""
    restore = checkpoint.restore

    def damaged(*arguments: Any) -> Any:
        found = restore(*arguments)
        layer = found.state["params"]["C1"]
        layer["bias"] = layer["bias"].at[1].set(value)
        return found

    monkeypatch.setattr(checkpoint, "restore", damaged)
    message = r"in .* is of a run that diverged: 'params/C1/bias' has 1 of 6 values that are NaN"
    with pytest.raises(errors.UserError, match=message):
        predictor.load(trained)


def test_masked_logits_are_no_error() -> None:
    logits = jnp.array([[-jnp.inf, 0.0, 0.0]])
    found = predictor.Predictor(
        predict=lambda _, batch: {"logits": jnp.repeat(logits, len(batch["image"]), 0)},
        variables={},
        preprocessing=Preprocessing(8, 8, ("a", "b", "c")),
        input_shape=(8, 8, 3),
        class_names=("a", "b", "c"),
    )
    assert found.top(np.zeros((8, 8, 3), np.uint8), 1) == [("b", 0.5)]


def test_a_native_size_has_a_limit() -> None:
    prepare = EvalPreprocessing(
        crops.Fit((100_000, 100_000), (8, 8, 1), "bilinear"), mean=(0.0,), std=(1.0,)
    )
    with pytest.raises(errors.UserError, match=f"100000 x 100000 .* MAX_NATIVE_PIXELS {LIMITS}"):
        prepare(np.zeros((5, 5, 1), np.uint8))
