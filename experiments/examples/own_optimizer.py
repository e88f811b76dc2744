"""Trains with any optimizer of Optax; it keeps its own learning rate."""

import optax

from cnn_jax import train

config = {"model": {"name": "lenet"}, "train": {"epochs": 5.0, "batch_size": 64}}
optimizers = {
    "lion": optax.lion(1e-3),
    "sgd, divided on a plateau": optax.chain(
        optax.sgd(0.1, momentum=0.9),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=5, accumulation_size=20),
    ),
}
for name, optimizer in optimizers.items():
    outcome = train.run(config, optimizer=optimizer, progress=False)
    print(f"{name}: validation accuracy {outcome.validation['top1']:.3f}")
