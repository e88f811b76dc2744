"""Trains with a loss and measures with a metric of one's own."""

import jax
import jax.numpy as jnp

from cnn_jax import losses, train


def focal(outputs, batch, gamma):
    """Returns the focal loss `[B]` (Lin et al. 2017, arXiv:1708.02002, eq. 4, without alpha)."""
    cross_entropy = losses.cross_entropy(outputs["logits"], batch["label"])
    return (1 - jnp.exp(-cross_entropy)) ** gamma * cross_entropy


def brier(outputs, batch):
    """Returns the Brier score of each example, `[B]`."""
    logits = outputs["logits"]
    error = jax.nn.softmax(logits) - jax.nn.one_hot(batch["label"], logits.shape[-1])
    return {"score": (error**2).sum(-1)}


if __name__ == "__main__":
    outcome = train.run(
        {
            "model": {"name": "lenet"},
            "loss": {"name": "experiments.examples.own_loss:focal", "options": {"gamma": 2.0}},
            "eval": {"metrics": ("experiments.examples.own_loss:brier",)},
            "train": {"epochs": 5.0, "batch_size": 64},
        }
    )
    print(f"accuracy {outcome.test['top1']:.3f}, Brier score {outcome.test['brier/score']:.3f}")
