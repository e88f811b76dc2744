"""Writes `data/trajectories-LIBRARY.json`: parameters after steps of other libraries' optimizers.

    python -m tests.optim.make_trajectories LIBRARY

LIBRARY is `torch` (needs torch and timm), `tensorflow` (needs tensorflow and keras) or `numpy`
(formulas of the papers). The problem is that of `problem.py`, in float64: 50 steps with a warm-up,
a cosine, and weight decay of the kernels.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.optim import problem

DATA = Path(__file__).parent / "data"
SCRIPT = "tests/optim/make_trajectories.py"
LIBRARIES = ("torch", "tensorflow", "numpy")

Trajectory = list[problem.Params]
Rule = Callable[[np.ndarray], np.ndarray]
"""`gradient -> update` of a parameter, before the rate."""


def main() -> None:
    """Writes the file of a library."""
    (library,) = sys.argv[1:]
    made = {"torch": _of_torch, "tensorflow": _of_tensorflow, "numpy": _of_numpy}
    source, cases = made[library]()
    found = {name: _rows(trajectory) for name, trajectory in cases.items()}
    content = {"source": source, "script": SCRIPT, "cases": found}
    DATA.mkdir(exist_ok=True)
    text = json.dumps(content, separators=(",", ":"))
    (DATA / f"trajectories-{library}.json").write_text(text + "\n")


def _rows(trajectory: Trajectory) -> list[dict[str, list[float]]]:
    return [
        {path: np.asarray(value, np.float64).flatten().tolist() for path, value in params.items()}
        for params in trajectory
    ]


# torch and timm.


def _to_torch(array: np.ndarray) -> np.ndarray:
    """Returns a kernel in torch's layout: `[O, I, h, w]` or `[O, I]`."""
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array.T)


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _with_torch(
    make: Callable[[list[dict[str, Any]]], Any],
    *,
    decay: float = problem.WEIGHT_DECAY,
    clip: Callable[[list[Any]], Any] = lambda _: None,
    l1: float = 0.0,
    factors: Mapping[str, float] = {},
) -> Trajectory:
    """Returns the parameters after the stored steps of an optimizer of torch or timm.

    Args:
      make: the optimizer of parameter groups.
      decay: weight decay of the kernels.
      clip: changes the gradients of parameters.
      l1: coefficient of an L1 penalty of the kernels, whose gradient torch computes.
      factors: factors of the rate by path.
    """
    import torch

    params = {
        path: torch.nn.Parameter(torch.from_numpy(_to_torch(value)))
        for path, value in problem.start().items()
    }
    groups = [
        {
            "params": [param],
            "weight_decay": decay if path in problem.KERNELS else 0.0,
            "factor": factors.get(path, 1.0),
        }
        for path, param in params.items()
    ]
    optimizer = make(groups)
    found = []
    for step, rate in enumerate(problem.rates()):
        for group in optimizer.param_groups:
            group["lr"] = float(rate) * group["factor"]
        for path, noise in problem.noise(step).items():
            part = torch.from_numpy(_to_torch(noise))
            params[path].grad = (0.5 + 0.02 * step) * params[path].detach() + part
        clip(list(params.values()))
        if l1:
            penalty = l1 * sum(params[path].abs().sum() for path in problem.KERNELS)
            penalty.backward()
        optimizer.step()
        if step in problem.STORED:
            arrays = {path: param.detach().numpy().copy() for path, param in params.items()}
            found.append({path: _from_torch(array) for path, array in arrays.items()})
    return found


def _of_torch() -> tuple[str, dict[str, Trajectory]]:
    import timm
    import torch
    from timm.optim import Lamb, Lars, RMSpropTF
    from timm.utils.agc import adaptive_clip_grad

    optim, clips = torch.optim, torch.nn.utils
    run = _with_torch
    moments = {"betas": (0.8, 0.95), "eps": 1e-3}
    cases = {
        "sgd": run(lambda g: optim.SGD(g, lr=1)),
        "momentum": run(lambda g: optim.SGD(g, lr=1, momentum=0.9)),
        "nesterov": run(lambda g: optim.SGD(g, lr=1, momentum=0.9, nesterov=True)),
        "adam": run(lambda g: optim.Adam(g, **moments)),
        "adamw": run(lambda g: optim.AdamW(g, **moments), decay=0.5),
        "adagrad": run(lambda g: optim.Adagrad(g, eps=1e-3)),
        "adagrad from 0.3": run(
            lambda g: optim.Adagrad(g, eps=1e-3, initial_accumulator_value=0.3)
        ),
        "adadelta": run(lambda g: optim.Adadelta(g, rho=0.8, eps=1e-3)),
        "rmsprop": run(lambda g: optim.RMSprop(g, alpha=0.8, eps=1e-3)),
        "rmsprop with momentum": run(lambda g: optim.RMSprop(g, alpha=0.8, eps=1e-3, momentum=0.9)),
        "timm rmsprop_tf": run(lambda g: RMSpropTF(g, alpha=0.8, eps=1e-3, momentum=0.9)),
        "lamb": run(lambda g: Lamb(g, **moments, max_grad_norm=None)),
        "lamb, clipped": run(lambda g: Lamb(g, **moments, max_grad_norm=1.0)),
        "lars": run(lambda g: Lars(g, momentum=0.9, trust_coeff=0.1)),
        "lars with nesterov": run(lambda g: Lars(g, momentum=0.9, trust_coeff=0.1, nesterov=True)),
        "factors": run(
            lambda g: optim.AdamW(g, **moments),
            decay=0.5,
            factors={"dense/kernel": 0.1, "dense/bias": 3.0},
        ),
        "l1": run(lambda g: optim.SGD(g, lr=1, momentum=0.9), l1=0.05),
        "clip_norm": run(
            lambda g: optim.SGD(g, lr=1, momentum=0.9), clip=lambda p: clips.clip_grad_norm_(p, 2.0)
        ),
        "clip_value": run(
            lambda g: optim.SGD(g, lr=1, momentum=0.9),
            clip=lambda p: clips.clip_grad_value_(p, 0.5),
        ),
        "clip_adaptive": run(
            lambda g: optim.SGD(g, lr=1, momentum=0.9), clip=lambda p: adaptive_clip_grad(p, 0.2)
        ),
    }
    return f"torch {torch.__version__}, timm {timm.__version__}", cases


# TensorFlow and Keras.


def _of_tensorflow() -> tuple[str, dict[str, Trajectory]]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    keras.backend.set_floatx("float64")

    def run(make: Callable[[Callable[[], np.float64]], Any]) -> Trajectory:
        now = [np.float64(0)]
        optimizer = make(lambda: now[0])
        params = {path: tf.Variable(value) for path, value in problem.start().items()}
        found = []
        for step, rate in enumerate(problem.rates()):
            now[0] = np.float64(rate)  # A Python number would become float32.
            grads = problem.gradient(params, step)
            for path in problem.KERNELS:  # L2, as in TensorFlow's EfficientNet.
                grads[path] = grads[path] + problem.WEIGHT_DECAY * params[path]
            optimizer.apply_gradients([(grads[path], params[path]) for path in params])
            if step in problem.STORED:
                found.append({path: value.numpy() for path, value in params.items()})
        return found

    v1 = functools.partial(
        tf.compat.v1.train.RMSPropOptimizer, decay=np.float64(0.8), epsilon=np.float64(1e-3)
    )
    cases = {
        "rmsprop_tf": run(lambda rate: v1(rate, momentum=np.float64(0.9))),
        "rmsprop_tf without momentum": run(lambda rate: v1(rate, momentum=np.float64(0))),
        "keras rmsprop": run(
            lambda rate: keras.optimizers.RMSprop(rate, rho=0.8, momentum=0.9, epsilon=1e-3)
        ),
    }
    return f"tensorflow {tf.__version__}, keras {keras.__version__}", cases


# Formulas in NumPy.


def _with_numpy(make: Callable[[str], Rule]) -> Trajectory:
    """Returns the parameters after the stored steps of a rule, made for each path."""
    params = problem.start()
    rules = {path: make(path) for path in params}
    found = []
    for step, rate in enumerate(problem.rates()):
        grads = problem.gradient(params, step)
        for path in params:
            decay = problem.WEIGHT_DECAY if path in problem.KERNELS else 0.0
            update = rules[path](grads[path])
            params[path] = params[path] * (1 - rate * decay) - rate * update
        if step in problem.STORED:
            found.append(dict(params))
    return found


def _lion(path: str) -> Rule:
    """Lion: Chen et al. 2023, arXiv:2302.06675, algorithm 2, with beta1 0.8 and beta2 0.95."""
    momentum: Any = 0.0

    def rule(grad: np.ndarray) -> np.ndarray:
        nonlocal momentum
        update = np.sign(0.8 * momentum + 0.2 * grad)
        momentum = 0.95 * momentum + 0.05 * grad
        return update

    return rule


def _adam(path: str) -> Rule:
    """Adam: Kingma & Ba 2015, algorithm 1."""
    m: Any = 0.0
    v: Any = 0.0
    step = 0

    def rule(grad: np.ndarray) -> np.ndarray:
        nonlocal m, v, step
        step += 1
        m = 0.8 * m + 0.2 * grad
        v = 0.95 * v + 0.05 * grad**2
        return (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-3)

    return rule


def _muon(path: str, nesterov: bool) -> Rule:
    """Muon: `muon_update` of github.com/KellerJordan/Muon at 857d1ad, in float64.

    The factor is that of the matrix of a convolution, as in `timm.optim.Muon`; the authors' line
    divides the kernel's height by its width.
    """
    if path not in problem.KERNELS:
        return _adam(path)
    momentum: Any = 0.0

    def rule(grad: np.ndarray) -> np.ndarray:
        nonlocal momentum
        momentum = 0.95 * momentum + 0.05 * grad
        update = _to_torch(0.95 * momentum + 0.05 * grad if nesterov else momentum)
        matrix = update.reshape(len(update), -1)
        result = _zero_power(matrix) * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        return _from_torch(result.reshape(update.shape))

    return rule


def _zero_power(matrix: np.ndarray) -> np.ndarray:
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


def _of_numpy() -> tuple[str, dict[str, Trajectory]]:
    cases = {
        "lion": _with_numpy(_lion),
        "muon": _with_numpy(lambda path: _muon(path, nesterov=False)),
        "muon with nesterov": _with_numpy(lambda path: _muon(path, nesterov=True)),
    }
    return f"numpy {np.__version__}, formulas of the authors", cases


if __name__ == "__main__":
    main()
