"""Conversion of the weights of `keras.applications`.

- `weights`: `from_keras` converts the arrays; `KERAS` gives the fields that the network needs.
- `inputs`: `keras_preprocessing`, the preprocessing that belongs to the weights.
- `applications`: the supported applications, with rename rules and field overrides.

This code does not import Keras.
"""
