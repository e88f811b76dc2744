"""Model card of a weights folder: README.md with the front matter of the Hugging Face Hub."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax

import cnn_jax
from cnn_jax import errors
from cnn_jax.export import traced
from cnn_jax.export.history import History
from cnn_jax.predictor import Predictor
from cnn_jax.runs import logs

_VALUES = ("top1", "top5", "loss")  # columns of the table of results, where the log has them
_MOST_CLASSES = 20


def write(
    network: Predictor,
    config: Mapping[str, Any],
    license_name: str = "other",
    history: History | None = None,
) -> str:
    """Returns the model card in Markdown.

    Args:
      network: the predictor.
      config: the content of config.json; see `weights_folder.configuration`.
      license_name: of the weights.
      history: the training; None for published weights.
    """
    architecture = config["architecture"]
    is_timm = "library" not in config
    parts = [
        "\n".join(_front_matter(license_name, is_timm, history)),
        f"# {architecture}",
        "\n".join(_facts(network, config)),
        "## Use\n\n" + _usage(is_timm),
        "## Preprocessing\n\n" + _preprocessing(network, config),
    ]
    if history is not None:
        parts += ["## Results\n\n" + _results(history), "## Training\n\n" + _training(history)]
    return "\n\n".join(parts) + "\n"


def _front_matter(license_name: str, is_timm: bool, history: History | None) -> Iterator[str]:
    """Yields the lines of https://huggingface.co/docs/hub/model-cards, in YAML."""
    yield "---"
    yield f"license: {json.dumps(license_name)}"
    yield f"library_name: {'timm' if is_timm else 'cnn_jax'}"
    yield "pipeline_tag: image-classification"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("image-classification", "cnn_jax", "safetensors"))
    if is_timm:
        yield "- timm"
    if history is not None and any("top1" in values for _, values in _measured(history)):
        yield "metrics:"
        yield "- accuracy"
    yield "---"


def _facts(network: Predictor, config: Mapping[str, Any]) -> Iterator[str]:
    leaves = jax.tree.leaves(network.variables["params"])
    names = network.class_names
    height, width, channels = network.input_shape
    yield f"- network: `{config['architecture']}` of cnn_jax {cnn_jax.__version__}"
    if config.get("options"):
        yield f"- options: `{json.dumps(config['options'])}`"
    yield f"- parameters: {sum(leaf.size for leaf in leaves):,}"
    yield f"- input: {height} x {width} x {channels} (height x width x channels)"
    shown = errors.listed([repr(name) for name in names], _MOST_CLASSES)
    yield f"- classes: {len(names):,}: {shown}"


def _usage(is_timm: bool) -> str:
    ours = (
        "```python\nfrom cnn_jax import predictor\n\n"
        'classifier = predictor.load("DIR/model.safetensors")\n'
        'classifier.top("photo.jpg", 5)\n```'
    )
    if not is_timm:
        return f"DIR is this folder:\n\n{ours}"
    theirs = (
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:DIR", pretrained=True).eval()\n```'
    )
    return f"DIR is this folder. In cnn_jax:\n\n{ours}\n\nIn timm:\n\n{theirs}"


def _preprocessing(network: Predictor, config: Mapping[str, Any]) -> str:
    given = config["pretrained_cfg"]
    steps = [f"- {key}: {_text(value)}" for key, value in traced.resizing(network).items()]
    steps.append("- scale: pixels to [0, 1]")
    steps.append(f"- mean: {_text(given['mean'])}, then divide by std: {_text(given['std'])}")
    steps += [f"- note: {note}" for note in traced.notes(network)]
    return "\n".join(steps)


def _measured(history: History) -> list[tuple[str, dict[str, Any]]]:
    """Returns pairs of split and values: the lines of the log, of the weights that are exported."""
    return [(row["split"], logs.of_weights(row, history.weights)) for row in history.rows]


def _results(history: History) -> str:
    """Returns the table of the log's lines on the checkpoint."""
    rows = [pair for pair in _measured(history) if any(name in pair[1] for name in _VALUES)]
    if not rows:
        return f"The log has no validation or test of step {history.step:,}."
    columns = [name for name in _VALUES if any(name in values for _, values in rows)]
    lines = [
        f"Weights of step {history.step:,} ({history.weights}).",
        "",
        f"| split | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for split, values in rows:
        cells = (_number(values.get(name)) for name in columns)
        lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _training(history: History) -> str:
    state = "" if history.finished else "The log has no final line: the training did not end.\n\n"
    command = history.command or "(not recorded: the run is of a version before 0.2.0)"
    config = [f"{path} = {_text(value)}" for path, value in history.config.items()]
    versions = ", ".join(f"{name} {value}" for name, value in history.versions.items() if value)
    return (
        f"{state}{_fenced('text', [errors.printable(command)])}\n\n"
        f"Config keys that differ from the defaults:\n\n{_fenced('text', config or ['none'])}"
        + (f"\n\nVersions: {errors.printable(versions)}" if versions else "")
    )


def _fenced(language: str, lines: list[str]) -> str:
    text = "\n".join(lines).replace("```", "'''")
    return f"```{language}\n{text}\n```"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _text(value: Any) -> str:
    """Returns a value as text on one line."""
    return errors.printable(value if isinstance(value, str) else json.dumps(value, default=str))
