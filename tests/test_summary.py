"""Tests of the costs of networks and of the command `cnn_jax.summary`."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import linen as nn

from cnn_jax import models, summary
from cnn_jax.models import costs, layers
from cnn_jax.runtime import console

ROOT = Path(__file__).parent.parent


def slow(*values: Any) -> Any:
    """Returns a case of the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Twice(nn.Module):
    """Module with a scale of its own and a convolution that it calls twice."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = layers.Conv(3, (3, 3), padding=1, name="conv")
        scale = self.param("scale", nn.initializers.ones_init(), (3,))
        return conv(conv(x)) * scale


class Heads(nn.Module):
    """Network with an auxiliary head that is used only in training."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        if layers.wants_auxiliary(self, heads=True, train=train):
            layers.sow_auxiliary(self, "aux", nn.Dense(2, name="aux")(x))
        return nn.Dense(5, name="fc")(x)


def test_lenet_matches_counts_by_hand() -> None:
    found = costs.rows(models.create("lenet", num_classes=10), (32, 32, 1), train=False)
    assert found == [
        ("C1", "Conv", (28, 28, 6), 6 * (1 * 25 + 1), 0, 28 * 28 * 6 * 1 * 25),
        ("C3", "Conv", (10, 10, 16), 16 * (6 * 25 + 1), 0, 10 * 10 * 16 * 6 * 25),
        ("C5", "Dense", (120,), (400 + 1) * 120, 0, 400 * 120),
        ("F6", "Dense", (84,), (120 + 1) * 84, 0, 120 * 84),
        ("output", "Dense", (10,), (84 + 1) * 10, 0, 84 * 10),
    ]
    assert sum(row.parameters for row in found) == 61_706
    assert sum(row.multiply_adds for row in found) == 117_600 + 240_000 + 48_000 + 10_080 + 840


def test_sparse_convolution_counts_its_connections() -> None:
    found = costs.rows(models.create("lenet5", num_classes=10), (32, 32, 1), train=False)
    # LeCun et al. 1998, section II.B: C3 has 1,516 parameters and 151,600 connections. The
    # connections include 16 biases at 100 positions.
    (c3,) = (row for row in found if row.path == "C3")
    assert c3.parameters == 1_516
    assert c3.multiply_adds == 151_600 - 16 * 100


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(
    ("stride", "padding", "output"), [(1, 1, (9, 7)), (2, 1, (5, 4)), (3, 0, (3, 2))]
)
def test_convolution_matches_the_formula(
    groups: int, stride: int, padding: int, output: tuple[int, int], use_bias: bool
) -> None:
    conv = layers.Conv(16, (3, 3), stride, padding, groups, use_bias)
    height, width = output
    parameters = 16 * (8 * 9 // groups + use_bias)
    cost = height * width * 16 * 8 * 9 // groups
    assert costs.rows(conv, (9, 7, 8)) == [("", "Conv", (*output, 16), parameters, 0, cost)]


def test_flax_layers_match_the_formula() -> None:
    conv = nn.Conv(16, (3, 5), strides=2, feature_group_count=4)
    assert costs.rows(conv, (9, 7, 8)) == [
        ("", "Conv", (5, 4, 16), 16 * (2 * 15 + 1), 0, 5 * 4 * 16 * 2 * 15)
    ]
    # A dense layer on an image is a 1x1 convolution.
    assert costs.rows(nn.Dense(16), (9, 7, 8)) == [
        ("", "Dense", (9, 7, 16), 16 * (8 + 1), 0, 9 * 7 * 16 * 8)
    ]


@pytest.mark.parametrize(("use_scale", "parameters"), [(True, 16), (False, 8)])
def test_normalisation_has_no_multiply_adds_and_separate_statistics(
    use_scale: bool, parameters: int
) -> None:
    bn = nn.BatchNorm(use_running_average=True, use_scale=use_scale)
    expected = [("", "BatchNorm", (9, 7, 8), parameters, 16, 0)]
    assert costs.rows(bn, (9, 7, 8)) == expected
    (fixed,) = costs.rows(bn.copy(use_scale=False, use_bias=False), (9, 7, 8))
    assert (fixed.parameters, fixed.statistics) == (0, 16)


def test_layer_called_twice_counts_its_parameters_once() -> None:
    cost = 5 * 5 * 3 * 3 * 9
    assert costs.rows(Twice(), (5, 5, 3)) == [
        ("conv", "Conv", (5, 5, 3), 3 * (3 * 9 + 1), 0, cost),
        ("conv", "Conv", (5, 5, 3), 0, 0, cost),
        ("", "Twice", (5, 5, 3), 3, 0, 0),
    ]


def test_layers_unused_in_inference_are_listed_last() -> None:
    bn = ("bn", "BatchNorm", (4,), 8, 8, 0)
    fc = ("fc", "Dense", (5,), 25, 0, 20)
    unused = ("aux", costs.UNUSED, (), 10, 0, 0)
    assert costs.rows(Heads(), (4,), train=False) == [bn, fc, unused]
    used = ("aux", "Dense", (2,), 10, 0, 8)
    assert costs.rows(Heads(), (4,), train=True) == [bn, used, fc]
    text = costs.table(costs.rows(Heads(), (4,), train=False))
    assert "parameters: 43 = 0.000 M\n  of these, unused in inference: 10\n" in text
    assert "running statistics (not trained): 8\n" in text


@pytest.mark.parametrize("name", ["alexnet", slow("googlenet"), "nin", "squeezenet1_0", "vgg11_bn"])
def test_rows_cover_all_variables_of_a_network(name: str) -> None:
    model, shape = models.create(name, num_classes=10), models.input_shape(name)
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    found = costs.rows(model, shape, train=False)
    for column, collection in (("parameters", "params"), ("statistics", "batch_stats")):
        expected = sum(leaf.size for leaf in jax.tree.leaves(variables.get(collection, {})))
        assert sum(getattr(row, column) for row in found) == expected
    assert all(row.multiply_adds for row in found if row.kind in ("Conv", "Dense"))


def test_table_is_aligned_and_has_totals() -> None:
    found = [
        costs.Row("block.conv", "Conv", (112, 112, 64), 1_234_567, 0, 2_345_678_901),
        costs.Row("fc", "Dense", (10,), 850, 0, 840),
    ]
    assert costs.table(found).splitlines() == [
        "layer       type   output      parameters  multiply-adds",
        "block.conv  Conv   112x112x64   1,234,567  2,345,678,901",
        "fc          Dense  10                 850            840",
        "total                           1,235,417  2,345,679,741",
        "",
        "parameters: 1,235,417 = 1.235 M",
        "multiply-adds per image: 2,345,679,741 = 2,345.680 M = 2.346 G",
    ]


def test_command_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lenet", "--num_classes=10", "activation=tanh", f"--csv={tmp_path / 'a.csv'}"]
    assert status(monkeypatch, *arguments) == 0
    found = costs.rows(models.create("lenet", num_classes=10), (32, 32, 1), train=False)
    title = "lenet for images of 32x32x1 and 10 classes"
    assert capsys.readouterr().out == f"{title}\n\n{costs.table(found)}\n"
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["path"] for line in lines] == ["C1", "C3", "C5", "F6", "output"]
    assert lines[0]["output_shape"] == "28x28x6"
    assert sum(int(line["multiply_adds"]) for line in lines) == 416_520


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Runs the command and returns its exit status."""
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    with pytest.raises(SystemExit) as exit_:
        console.exit_with(summary.main)
    return exit_.value.code


def test_command_takes_size_channels_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--image_size=8", "--channels=2", "--num_classes=3"]
    assert status(monkeypatch, "mlp", *sizes, "widths=(5, 4)", "dropout_rate=0.5") == 0
    out = capsys.readouterr().out
    assert out.startswith("mlp for images of 8x8x2 and 3 classes\n")
    assert f"parameters: {129 * 5 + 6 * 4 + 5 * 3} =" in out


def test_command_lists_the_parameters_with_weight_decay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "lenet5", "--decay") == 0
    # LeCun et al. 1998, section II.B: kernels of C1, C3, C5 and F6; the rest are biases and the
    # coefficients of S2 and S4.
    kernels = 6 * 25 + 60 * 25 + 400 * 120 + 120 * 84
    lines = capsys.readouterr().out.splitlines()
    assert f"4 of 12 parameters, {kernels:,} of 60,000 values" in lines
    assert "decay  C3/kernel       5x5x60" in lines
    assert "-      S2/coefficient  6" in lines
    assert status(monkeypatch, "lenet5", "--decay=coefficient", "--decay=^C1/") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("decay  ")] == [
        "C1/bias",
        "C1/kernel",
        "S2/coefficient",
        "S4/coefficient",
    ]


NETS = """
import jax.numpy as jnp
from flax import linen as nn

class Small(nn.Module):
    num_classes: int
    width: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(self.width)(images.reshape(len(images), -1))
        return {"logits": nn.Dense(self.num_classes)(x)}

class Wrong(Small):
    def __call__(self, images, *, train):
        return images
"""


def test_command_finds_a_network_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summarised_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    shape = ["--image_size=28", "--channels=1"]
    assert status(monkeypatch, "summarised_nets:Small", *shape, "width=5") == 0
    out = capsys.readouterr().out
    assert out.startswith("summarised_nets:Small for images of 28x28x1 and 10 classes\n")
    assert f"parameters: {785 * 5 + 6 * 10:,} =" in out
    assert status(monkeypatch, "summarised_nets:Wrong", *shape) == 1
    assert "logits have shape [1, 28, 28, 1] for a batch of 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet", "--decay=fc"], "optim.decay 'fc' matches none of the 10 parameters"),
        (["lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
        (["lenet", "--image_size=0"], "--image_size and --channels must be at least 1, got 0 and"),
        (["lenet", "--channels=-1"], "--image_size and --channels must be at least 1, got 32 and"),
        (["lenet", "--num_classes=-1"], "num_classes must be an integer of at least 1, or 0"),
        (["nets:Small"], "model 'nets:Small' has no published input shape; give --image_size and"),
        (["lenet", "--image_size=8"], "lenet needs images of at least 16x16 pixels, got 8x8"),
        (["lenet", "activation"], "'activation' is not of the form OPTION=VALUE"),
        (["lenet", "activaton=tanh"], "unknown option of model 'lenet': 'activaton'; did you mean"),
        (["lenet", "num_classes=3"], "unknown option of model 'lenet': 'num_classes'"),
        (["lenet", "activation=tan"], "unknown activation 'tan'; did you mean 'tanh'"),
        (["lenet", "activation=3"], "model.activation must be of type str, got 3"),
        (["lenet", "--csv=/no/such/folder/a.csv"], "/no/such/folder/a.csv cannot be written: No"),
        (["lenet", f"--csv={__file__}"], f"{__file__} already exists; choose a new file"),
    ],
)
def test_invalid_arguments_give_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert status(monkeypatch, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_missing_name_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch) == 2
    assert "NAME is missing; --list prints all names" in capsys.readouterr().err


def test_list_prints_all_names_with_their_input_shapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "--list") == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in listed] == models.names()
    assert ["lenet", "32x32x1"] in listed


def test_help_is_printed_without_importing_jax() -> None:
    code = (
        "import atexit, sys; sys.argv = ['summary', '--help']\n"
        "from cnn_jax import summary\n"
        "atexit.register(lambda: print('jax' in sys.modules))\n"
        "summary.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "OPTION=VALUE" in result.stdout
    assert result.stdout.splitlines()[-1] == "False"


def test_rows_can_be_called_from_the_command_module() -> None:
    assert summary.rows is costs.rows
    with pytest.raises(AttributeError, match="has no attribute 'row'"):
        _ = summary.row


# Parameters, and billions of multiply-adds to two digits. Sources: torchvision's documentation, the
# papers (AlexNet 0.72; GoogLeNet 'a budget of 1.5 billion'), and counts by hand for LeNet. Those of
# the transformers contain the two products of attention.
PUBLISHED = {
    "lenet5": (60_000, None),
    "lenet": (61_706, 0.000_42),
    "nin_cifar": (966_986, None),
    "squeezenet1_1": (1_235_496, 0.35),
    "alexnet": (60_965_224, 0.72),
    "alexnet_owt": (61_100_840, 0.71),
    "zfnet512": (87_250_536, None),
    "vgg16": (138_357_544, 15.47),
    "vgg19": (143_667_240, 19.63),
    "googlenet": (6_998_552, 1.58),
    "googlenet_bn": (6_624_904, 1.5),
    "inception_v3": (23_834_568, 5.71),
    "mobilenetv3_small_100": (2_542_856, 0.057),
    "vit_base_patch16_224": (86_567_656, 17.564),
    "swin_tiny_patch4_window7_224": (28_288_354, 4.491),
}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        slow(*item) if item[0].startswith(("googlenet", "inception", "swin")) else item
        for item in PUBLISHED.items()
    ],
)
def test_totals_equal_the_published_ones(name: str, published: tuple[int, float | None]) -> None:
    parameters, billions = published
    shape = models.input_shape(name)
    heads: dict[str, Any] = (
        {"auxiliary_heads": False} if "auxiliary_heads" in models.options(name) else {}
    )
    model = models.create(name, num_classes=1000 if shape[0] > 32 else 10, **heads)
    found = costs.rows(model, shape, train=False)
    assert sum(row.parameters for row in found) == parameters
    if billions is not None:
        assert sum(row.multiply_adds for row in found) / 1e9 == pytest.approx(billions, rel=0.01)
