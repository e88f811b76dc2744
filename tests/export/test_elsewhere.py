"""Exported networks in processes that do not import cnn_jax.

The networks have the weights and the size of logits of `networks.filled`. The logits are equal
within 1e-5, for two batch sizes.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from cnn_jax import export
from tests.export import networks
from tests.golden import fill

NAMES = ("fashion_cnn", *networks.REFERENCES)
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export elsewhere")]
# The part of a program that is the same for all readers. `compute(name)` returns the function from
# pixels, or from inputs, to logits.
COMMON = """
for name in sys.argv[1:]:
    arrays = numpy.load(name + ".npz")
    call, images = compute(name), arrays[KIND]
    parts = [numpy.asarray(call(part)) for part in (images[:1], images[1:])]
    numpy.save(name + ".npy", numpy.concatenate(parts))
foreign = ("cnn_jax", "flax", "jax", "onnxruntime", "timm", "torch")
assert not {name.partition(".")[0] for name in sys.modules} & set(foreign) - set(OWN)
"""
JAX = """
import sys
from pathlib import Path
import jax, numpy
KIND, OWN = "pixels", ("jax",)
def compute(name):
    return jax.export.deserialize(Path(name + ".jax").read_bytes()).call
"""
ONNX = """
import sys
import numpy, onnxruntime
KIND, OWN = "pixels", ("onnxruntime",)
def compute(name):
    session = onnxruntime.InferenceSession(name + ".onnx", providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]
"""
TIMM = """
import sys
import numpy, timm, torch
KIND, OWN = "inputs", ("timm", "torch")
def compute(name):
    network = timm.create_model("local-dir:" + name, pretrained=True).eval()
    call = torch.inference_mode()(network)
    return lambda inputs: call(torch.from_numpy(inputs).permute(0, 3, 1, 2)).numpy()
"""
# timm does not have this network: its layers, written down again from the book.
BY_HAND = """
import sys
import jax, jax.numpy as jnp, numpy
from safetensors.numpy import load_file
KIND, OWN = "inputs", ("jax",)
def compute(name):
    tensors = load_file(name + "/model.safetensors")
    kernel, bias = ({k.split(".")[1]: v for k, v in tensors.items() if k.endswith(part)}
                    for part in ("kernel", "bias"))
    def convolve(x, layer):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel[layer], (1, 1), "SAME", dimension_numbers=layout, precision="highest")
        return jax.nn.relu(y + bias[layer])
    def halve(x):
        n, h, w, c = x.shape
        return x[:, :h // 2 * 2, :w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    def call(x):
        for stage in (("conv1",), ("conv2a", "conv2b"), ("conv3a", "conv3b")):
            for layer in stage:
                x = convolve(x, layer)
            x = halve(x)
        x = x.reshape(len(x), -1)
        for layer in ("dense1", "dense2"):
            x = jax.nn.relu(x @ kernel[layer] + bias[layer])
        return x @ kernel["output"] + bias["output"]
    return call
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with the exported networks and their images, and the logits by network."""
    folder = tmp_path_factory.mktemp("exported")
    logits = {}
    for name in NAMES:
        network = networks.filled(name)
        export.to_jax(network, folder / f"{name}.jax")
        export.to_onnx(network, folder / f"{name}.onnx")
        export.to_safetensors(network, folder / name)
        pixels = networks.pixels(network, 3)
        np.savez(folder / f"{name}.npz", pixels=pixels, inputs=network.preprocess(pixels))
        logits[name] = np.asarray(network(pixels).logits)
    return folder, logits


def check(
    exported: tuple[Path, dict[str, np.ndarray]], program: str, names: tuple[str, ...]
) -> None:
    """Runs a program in another process and compares the logits that it saves."""
    folder, logits = exported
    command = [sys.executable, "-c", program + COMMON, *names]
    subprocess.run(command, check=True, cwd=folder)
    for name in names:
        found = np.load(folder / f"{name}.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, logits[name], rtol=0, atol=1e-5, err_msg=name)


def test_jax_alone_computes_the_same_logits(exported: tuple[Path, dict[str, np.ndarray]]) -> None:
    check(exported, JAX, NAMES)


def test_onnx_runtime_computes_the_same_logits(
    exported: tuple[Path, dict[str, np.ndarray]],
) -> None:
    check(exported, ONNX, NAMES)


def test_the_tensors_of_a_folder_are_those_of_the_network(
    exported: tuple[Path, dict[str, np.ndarray]],
) -> None:
    """The layers of a network that timm does not have, and the state dicts of those that it has."""
    check(exported, BY_HAND, ("fashion_cnn",))
    for name in networks.REFERENCES:
        found, expected = load_file(exported[0] / name / "model.safetensors"), networks.state(name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed: pip install timm"
)
def test_timm_computes_the_same_logits(exported: tuple[Path, dict[str, np.ndarray]]) -> None:
    check(exported, TIMM, tuple(networks.REFERENCES))


@pytest.mark.parametrize("name", networks.REFERENCES)
def test_an_onnx_model_computes_the_logits_of_timm_or_torchvision(
    name: str, tmp_path: Path
) -> None:
    """The references computed in float64, from inputs in [-1, 1)."""
    network = networks.filled(name)
    export.to_onnx(network, tmp_path / "network.onnx", pixels="float32")
    reference = networks.reference(name)
    inputs = fill.images(tuple(reference["input_shape"]))
    session = onnxruntime.InferenceSession(
        tmp_path / "network.onnx", providers=["CPUExecutionProvider"]
    )
    logits = session.run(None, {"pixels": ((inputs + 1) / 2).astype(np.float32)})[0]
    first = np.reshape(reference["logits_first"], (len(logits), -1))
    assert list(logits.shape) == reference["logits_shape"]
    np.testing.assert_allclose(logits[:, : first.shape[1]], first, rtol=0, atol=2e-5)
