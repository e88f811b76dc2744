"""A look into a network, for notebooks; the command draws the same.

    from cnn_jax import inspect, predictor
    network = predictor.load("runs/lenet")
    inputs = network.preprocess(["photo.jpg"])  # [N, H, W, C]
    inspect.grad_cam(network, inputs, "daisy").maps  # [N, H, W] in [0, 1]

- `values.py`: values of stages, and gradients with respect to them, of any network
- `targets.py`: the classes that are explained
- `cam.py`: Grad-CAM; `attributions.py`: integrated gradients and occlusion
- `filters.py`: kernels of the first layer, and feature maps
- `flow.py`: norms of activations and gradients; dead ReLUs
- `receptive.py`: effective receptive field
- `surface.py`: loss surface along two filter-normalised directions
- `checking.py`: gradient check in float64
- `rates.py`: learning-rate finder; `subsets.py`: learning curves over subset sizes. Both train, so
  they are imported by name: `from cnn_jax.inspect import rates`
- `networks.py`: networks with initial parameters
- `jobs.py`, `plots.py`: the jobs of the command, and their pictures
"""

from cnn_jax.inspect import checking, filters, flow, networks, surface, targets, values
from cnn_jax.inspect.attributions import Integrated, Occlusion, integrated_gradients, occlusion
from cnn_jax.inspect.cam import GradCam, default_stage, grad_cam
from cnn_jax.inspect.receptive import ReceptiveField, receptive_field

__all__ = [
    "GradCam",
    "Integrated",
    "Occlusion",
    "ReceptiveField",
    "checking",
    "default_stage",
    "filters",
    "flow",
    "grad_cam",
    "integrated_gradients",
    "networks",
    "occlusion",
    "receptive_field",
    "surface",
    "targets",
    "values",
]
