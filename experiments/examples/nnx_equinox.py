"""Uses a network of cnn_jax in Flax NNX and in Equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cnn_jax import losses, models

images = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
labels = jnp.arange(8) % 4
linen = models.create("resnet20", num_classes=4, stage_sizes=(1, 1), widths=(8, 16))
variables = linen.init(jax.random.key(1), images, train=False)


def mean_loss(net, **options):
    """Returns the mean loss of a network."""
    return losses.cross_entropy(net(images, **options), labels).mean()


net = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(1)).lazy_init(images, train=False)
optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
options = {"train": True, "mutable": ["batch_stats"]}
optimizer.update(net, nnx.grad(lambda net: mean_loss(net, **options))(net))
print(f"NNX: logits {net(images, train=False).shape}")


class Network(eqx.Module):
    """Module of Equinox that holds the variables of a Linen module."""

    variables: dict

    def __call__(self, images):
        """Returns the logits in evaluation mode."""
        return linen.apply(self.variables, images, train=False)


norm = optax.tree.norm(eqx.filter_grad(mean_loss)(Network(variables)).variables["params"])
print(f"Equinox: logits {Network(variables)(images).shape}, norm of the gradient {norm:.3f}")
