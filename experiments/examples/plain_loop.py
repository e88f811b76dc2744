"""A plain training loop: networks, operations, losses and Optax, without the trainer."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from cnn_jax import losses, models, ops

digits = load_digits()
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)  # [1797, 8, 8, 1]
images = ops.avg_pool(jnp.repeat(jnp.repeat(images, 4, 1), 4, 2), (2, 2))  # [1797, 16, 16, 1]
labels = jnp.asarray(digits.target)
model = models.create("resnet20", num_classes=10)
variables = model.init(jax.random.key(0), images[:1], train=False)
params, batch_stats = variables["params"], variables["batch_stats"]
optimizer = optax.adam(3e-3)
opt_state = optimizer.init(params)


@jax.jit
def step(params, batch_stats, opt_state, images, labels):
    """Takes one step and returns the new state and the loss."""

    def loss(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return losses.cross_entropy(logits, labels).mean(), updates["batch_stats"]

    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), statistics, opt_state, value


for start in range(0, 1500, 50):
    batch = images[start : start + 50], labels[start : start + 50]
    params, batch_stats, opt_state, value = step(params, batch_stats, opt_state, *batch)
print(f"loss {value:.3f}")
