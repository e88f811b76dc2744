"""Findings as text for a terminal, and as JSON for a bug report."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors
from cnn_jax.doctor.findings import Finding, Level

_WIDTH = 22  # of names
_USER_VARIABLES = ("LOGNAME", "USER", "USERNAME")


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yields the lines of each finding as soon as it arrives; a title precedes each part."""
    part = ""
    for each in findings:
        if each.part != part:
            yield f"\n{each.part}" if part else each.part
            part = each.part
        text = errors.printable(each.text)
        yield f"  {each.level:<7}  {errors.printable(each.name):<{_WIDTH}}  {text}"
        if each.next_step:
            yield f"  {'':<7}  {'':<{_WIDTH}}  next: {errors.printable(each.next_step)}"


def summary(findings: Sequence[Finding]) -> str:
    """Returns the number of problems and notes, in words."""
    numbers = Counter(each.level for each in findings)
    counts = [
        f"{numbers[level]} {level}{'' if numbers[level] == 1 else 's'}"
        for level in (Level.PROBLEM, Level.NOTE)
    ]
    names = [errors.printable(each.name) for each in findings if each.level is Level.PROBLEM]
    return ", ".join(counts) + (f"; problems: {', '.join(names)}" if names else "")


def to_json(findings: Iterable[Finding]) -> str:
    """Returns the findings as JSON, without the user's name and home directory."""
    return json.dumps({"format": 1, "findings": [*map(_entry, findings)]}, indent=1) + "\n"


def _entry(finding: Finding) -> dict[str, Any]:
    return {
        "part": finding.part,
        "name": finding.name,
        "level": str(finding.level),
        "text": anonymous(finding.text),
        "next_step": anonymous(finding.next_step),
    }


def anonymous(text: str) -> str:
    """Returns a text with '~' for the home directory and 'USER' for the user in other paths."""
    try:
        home = str(Path.home())
    except RuntimeError:  # The home directory is unknown.
        home = ""
    if len(home) > 1:
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    for name in sorted({os.environ.get(each, "") for each in _USER_VARIABLES} - {""}):
        text = re.sub(rf"(?<=[/\\]){re.escape(name)}(?![\w.-])", "USER", text)
    return text
