"""The config of a run, its environment, and how to repeat it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import plan
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.report.page import Section, escape, short, table
from cnn_jax.runs import logs, workdir

_LONGEST = 400  # letters of a value
_MOST_ROWS = 100  # of versions and hardware


def config(settings: Plan) -> Section:
    """Returns the section of the config: what differs from the defaults, and all of it."""
    keys = plan.keys()
    changed = plan.differences(Plan(), settings)
    rows = [
        [path, _shown(value), _default(path, default), keys[path].comment if path in keys else ""]
        for path, (default, value) in changed.items()
    ]
    everything = table(
        ["key", "value"],
        [[path, _shown(value)] for path, value in plan.flatten(settings).items()],
    )
    return Section(
        "Config",
        table(["key", "value", "default", "meaning"], rows, caption="Values that are not defaults")
        + f"<details><summary>All {len(plan.flatten(settings)):,} keys</summary>{everything}"
        "</details>",
    )


def _default(path: str, default: Any) -> str:
    key = plan.keys().get(path)
    if key is None:
        return "the network's"
    if key.automatic is not None and key.automatic == default:
        return "automatic"
    return _shown(default)


def _shown(value: Any) -> str:
    return short(value if isinstance(value, str) and value else repr(value), _LONGEST)


def reproduction(
    directory: Path,
    starts: Sequence[Mapping[str, Any]],
    rows: Sequence[logs.Row],
    settings: Plan | None,
) -> Section:
    """Returns the section with the command, the versions and the hardware of the run.

    Args:
      directory: the work directory.
      starts: the entries of environment.json, oldest first.
      rows: the lines of the log; the last digest of the parameters is shown.
      settings: the config of the run, or None.
    """
    parts = []
    if starts:
        first = starts[0]
        place = shlex.quote(str(first.get("directory", "?")))
        command = f"cd {place}\n{first.get('command', '?')}"
        parts.append(f"<pre><code>{escape(command)}</code></pre>")
        if commit := first.get("commit"):
            parts.append(f"<p>Commit of this directory: <code>{escape(commit)}</code></p>")
    if settings is not None:
        path = str(directory / workdir.CONFIG)
        text = (
            f"from pathlib import Path\nfrom cnn_jax import plan, train\n"
            f"train.run(plan.stored(Path({path!r}).read_text()), 'NEW_WORKDIR')"
        )
        parts.append("<p>In Python, from the stored config, with this version:</p>")
        parts.append(f"<pre><code>{escape(text)}</code></pre>")
        if objects := [key for key, value in plan.flatten(settings).items() if value == GIVEN]:
            parts.append(
                f"<p>The objects of {escape(', '.join(objects))} have to be passed again.</p>"
            )
    digests = [row["params_sha256"] for row in rows if row.get("params_sha256")]
    if digests:
        parts.append(
            "<p>SHA-256 of the parameters at the end, which the same versions on the same hardware "
            f"reproduce: <code>{escape(digests[-1])}</code></p>"
        )
    if starts:
        parts.append(_environment(starts))
    return Section("Reproduction", "".join(parts) or "<p>Nothing is stored.</p>")


def _environment(starts: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of versions and hardware, with a column for each start."""
    shown = starts[-4:]
    names: dict[tuple[str, str], None] = {}
    for start in shown:
        for section, part in start.items():
            if isinstance(part, Mapping):
                names.update(dict.fromkeys((section, name) for name in part))
    headers = ["", *(f"start {len(starts) - len(shown) + i + 1}" for i in range(len(shown)))]
    if len(starts) == 1:
        headers = ["", "value"]
    rows: list[list[Any]] = [["time", *(_text(start.get("time")) for start in shown)]]
    for section, name in names:
        values = [_text(_part(start, section).get(name)) for start in shown]
        rows.append([f"{section}: {name}" if section != "versions" else name, *values])
    return table(headers, rows[:_MOST_ROWS], sortable=False, caption="Versions and hardware")


def _part(start: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    part = start.get(section)
    return part if isinstance(part, Mapping) else {}


def _text(value: Any) -> str | None:
    return None if value is None else short(value, _LONGEST)
