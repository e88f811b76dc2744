"""Classification: one logit per class, with auxiliary heads where the network has them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import metrics
from cnn_jax.contracts import Batch, Carried, Loss, Outputs, Sums, TrainState, Tree, Variables


@dataclasses.dataclass(frozen=True)
class Classification:
    """Objective of a classifier: the weighted mean of a loss over the examples of a batch.

    The loss of each auxiliary head is added, times `auxiliary_weight` (Szegedy et al. 2014,
    arXiv:1409.4842, section 5). The cross-entropy of softmax and LeNet-5's distances are two
    values of `example_loss`.

    Attributes:
      model: the network; it returns logits `[B, K]` or a mapping with the key 'logits'.
      example_loss: the loss of each example.
      auxiliary_weight: the weight of each auxiliary head's loss.
    """

    model: nn.Module
    example_loss: Loss
    auxiliary_weight: float = 0.0

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        """See `contracts.Objective`."""
        if given is None:
            given = self.model.init(key, batch["image"], train=False)
        return given["params"], given.get("batch_stats", {}), {}

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        """See `contracts.Objective`.

        The loss in the metrics is the plain cross-entropy with the labels, or with the targets
        where there are no labels.
        """
        result, updates = self.model.apply(
            {"params": params, "batch_stats": carried.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "aux_logits"],
        )
        outputs = _outputs(result)
        value = self._mean_loss(outputs, batch)
        heads = jax.tree.leaves(updates.get("aux_logits", {}))
        value += sum(
            self.auxiliary_weight * self._mean_loss({"logits": head}, batch) for head in heads
        )
        labels = batch["label"] if "label" in batch else batch["target"]
        sums = metrics.classification(outputs["logits"], labels, batch["weight"])
        return value, (carried._replace(batch_stats=updates.get("batch_stats", {})), sums)

    def after(self, state: TrainState) -> dict[str, Tree]:
        """See `contracts.Objective`. A classifier has no further state."""
        del state
        return {}

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        """See `contracts.Objective`."""
        return _outputs(self.model.apply(dict(variables), batch["image"], train=False))

    def _mean_loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        weight = batch["weight"]
        # The loss of padding can be infinite, and infinity times 0 is NaN.
        values = jnp.where(weight > 0, self.example_loss(outputs, batch), 0)
        return (values * weight).sum() / jnp.maximum(weight.sum(), 1)


def _outputs(result: Any) -> Outputs:
    return result if isinstance(result, Mapping) else {"logits": result}
