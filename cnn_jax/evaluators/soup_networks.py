"""The soup of the networks of an evaluation, with the splits that it is made from."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from cnn_jax import errors
from cnn_jax.data import imagenet
from cnn_jax.data.selection import Relabelled, Selected, Splits
from cnn_jax.evaluators import chosen_examples, soups
from cnn_jax.evaluators.networks import DataSet, Loaded
from cnn_jax.evaluators.request import Request, Selection
from cnn_jax.evaluators.right_answers import Subset

_STATISTICS, _HELD_OUT = "statistics", "held_out"


def mix(
    loaded: Loaded,
    titles: Sequence[str],
    request: Request,
    data_set: DataSet,
    selection: Selection,
) -> Loaded:
    """Returns the soup of networks as one network, with the facts about it; others as they are.

    Args:
      loaded: the networks.
      titles: the name of each.
      request: the request, with its splits; without a soup, the networks are returned.
      data_set: the data set.
      selection: the examples of the request.

    Raises:
      UserError: the networks are no members of a soup (`soups.uniform`), they have batch
        normalisation and the request names no training images, or the data set has other classes.
    """
    if not request.soup:
        return loaded
    first = loaded.predictors[0]
    has_statistics = bool(jax.tree.leaves(first.variables.get("batch_stats", {})))
    if has_statistics and selection.statistics is None:
        raise errors.UserError(
            "the networks have batch normalisation, whose statistics are computed anew from "
            "training images; give --statistics_split, such as 'train[:10%]'"
        )
    splits = {_STATISTICS: selection.statistics} if has_statistics else {}
    if request.soup == "greedy":
        splits[_HELD_OUT] = selection.fitted
    names = (data_set.class_names, first.class_names)
    subset = chosen_examples.find_subset(request.subset, *names)
    source = Splits(
        first.class_names,
        {name: _labelled(part, names, subset) for name, part in splits.items() if part is not None},
    )
    facts: dict[str, Any] = {"kind": request.soup}
    if has_statistics:
        facts["statistics_split"] = request.statistics_split
    if request.soup == "uniform":
        found, members = soups.uniform(loaded.predictors, source, _STATISTICS), tuple(titles)
    else:
        soup = soups.greedy(loaded.predictors, source, _HELD_OUT, statistics_split=_STATISTICS)
        found, members = soup.predictor, tuple(titles[index] for index in soup.members)
        accuracies = dict(zip(titles, soup.accuracies, strict=True))
        facts |= {"fit_split": request.fit_split, "fit_top1": soup.accuracy}
        facts["member_fit_top1"] = accuracies
    facts["members"] = list(members)
    return dataclasses.replace(loaded, predictors=(found,), soup=facts)


def _labelled(
    part: Selected, names: tuple[tuple[str, ...], tuple[str, ...]], subset: Subset | None
) -> Relabelled:
    """Returns examples with the class indices of the networks.

    The subset leaves examples out only if the data set lacks classes of the networks.
    """
    same = imagenet.readable(names[0]) == imagenet.readable(names[1])
    return chosen_examples.choose(part, *names, None if same else subset).examples
