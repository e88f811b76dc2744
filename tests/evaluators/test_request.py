"""Tests of the checks of requests: wrong values are named before anything is loaded."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, plan
from cnn_jax.evaluators import corruptions, swept, thorough
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request

# In the process of the other tests with these fixtures.
pytestmark = pytest.mark.xdist_group("trained")


def test_settings_of_published_weights_name_the_data_set_only(
    photos: tuple[Path, plan.Plan],
) -> None:
    weights, settings = photos
    networks = Networks(weights=(weights,))
    with pytest.raises(errors.UserError, match="published weights have no data set; name one"):
        thorough.run(networks, Request())
    changed = dataclasses.replace(settings, seed=1)
    with pytest.raises(errors.UserError, match="seed is that of the published weights and cannot"):
        thorough.run(networks, Request(), changed)
    with pytest.raises(errors.UserError, match="--calibrate of published weights needs --fit_sp"):
        thorough.run(networks, Request(calibrate=True), settings)
    with pytest.raises(errors.UserError, match="share 6 examples"):
        thorough.run(networks, Request(calibrate=True, fit_split="test[:50%]"), settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": "ten_crop"}, "unknown --views 'ten_crop'; did you mean 'ten_crops'"),
        ({"mean": "logit", "views": "mirrored"}, "unknown --mean 'logit'; did you mean 'logits'"),
        ({"mean": "logits"}, "--mean is for several networks or --views"),
        ({"fit_split": "train"}, "--fit_split is for --calibrate and --soup=greedy"),
        ({"soup": "best"}, "unknown --soup 'best'; allowed: greedy, uniform"),
        ({"soup": "uniform"}, "--soup averages the weights of several networks; name them in"),
        ({"statistics_split": "train"}, "--statistics_split is for --soup"),
        ({"severities": "1"}, "--severities is for --corruptions"),
        ({"corrupt": "stored"}, "--corrupt is for --corruptions"),
        ({"seed": 1}, "--seed is for --corruptions"),
        ({"subset": "data", "answers": Path("a")}, "--answers and --subset exclude each other"),
        ({"answers": Path("none.json")}, "there is no file none.json; check the path"),
        ({"subset": "none.txt"}, "there is no file none.txt; check the path"),
        ({"out": Path("a.txt")}, "--out must end in .json"),
        ({"csv": Path("a.txt")}, "--csv must end in .csv"),
        ({"csv": Path("nowhere/a.csv")}, "the folder of --csv nowhere/a.csv does not exist"),
        ({"against": Path("a.npz")}, "--against must name the .json file"),
        ({"against": Path("a.json")}, "there is no a.npz"),
    ],
)
def test_bad_requests_fail_before_anything_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        thorough.run(Networks(runs=(Path("nowhere"),)), Request(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruptions": "fogg"}, "unknown corruption 'fogg'; did you mean 'fog'"),
        ({"corruptions": "fog,fog"}, "must be a list of different values"),
        ({"corruptions": ","}, "must be a list of different values with at least one"),
        ({"severities": "1,2.5"}, "--severities must be integers from 1 to 5, such as 1,3,5; got"),
        ({"severities": "6"}, "an integer from 1 to 5, got 6"),
        ({"corrupt": "crop"}, "unknown --corrupt 'crop'; allowed: input, stored"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"views": "mirrored"}, "--corruptions with --views needs --corrupt=stored"),
        ({"calibrate": True}, "--corruptions and --calibrate exclude each other"),
        ({"subset": "data"}, "--corruptions and --subset exclude each other"),
    ],
)
def test_bad_sweeps_fail_before_anything_is_loaded(changes: dict[str, Any], message: str) -> None:
    request = Request(**{"corruptions": "fog", **changes})
    with pytest.raises(errors.UserError, match=message):
        swept.run(Networks(runs=(Path("nowhere"),)), request)


def test_a_sweep_is_of_one_network() -> None:
    networks = Networks(runs=(Path("a"), Path("b")))
    with pytest.raises(errors.UserError, match="is for one network or one --soup, got 2 networks"):
        swept.run(networks, Request(corruptions="fog"))


def test_groups_of_corruptions_have_names() -> None:
    found = {name: Request(corruptions=name).corruption_names for name in ("imagenet_c", "extra")}
    assert found == {"imagenet_c": corruptions.NAMES, "extra": corruptions.EXTRA}
    assert Request(corruptions="all").corruption_names == tuple(corruptions.TABLE)
    assert Request(corruptions="fog, snow").corruption_names == ("fog", "snow")
    assert Request(severities="5,1").severity_numbers == (5, 1)


def test_a_greedy_soup_of_published_weights_needs_a_held_out_split() -> None:
    networks = Networks(weights=("a", "b"))
    with pytest.raises(errors.UserError, match="--soup=greedy of published weights needs --fit_sp"):
        thorough.run(networks, Request(soup="greedy"))
    with pytest.raises(errors.UserError, match="--mean is for several networks or --views"):
        thorough.run(networks, Request(soup="uniform", mean="logits"))


def test_a_subset_below_the_home_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "classes.txt").write_text("1\n2\n")
    with pytest.raises(errors.UserError, match="nowhere is not a work directory"):
        thorough.run(Networks(runs=(Path("nowhere"),)), Request(subset="~/classes.txt"))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (Networks(), "give either work directories or published weights"),
        (Networks(runs=(Path("a"), Path("a"))), "a is given twice"),
        (Networks(runs=(Path("a"),), checkpoint="1,"), "--checkpoint must be best, last or a step"),
        (Networks(runs=(Path("a"),), checkpoint="1,1"), r"a \(1\) is given twice"),
        (Networks(weights=("a", "b", "c"), names=("x", "y")), "names 2 networks for 3 files"),
        (Networks(runs=(Path("a"),), batch_size=-1), "batch size must be at least 1, got -1"),
    ],
)
def test_networks_are_checked(networks: Networks, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        thorough.run(networks, Request())
