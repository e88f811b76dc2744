"""Likely label errors: a case by hand, the definition by loops, and planted errors."""

import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.evaluators import example_rows, label_errors, scores


def joint_by_loops(probabilities: np.ndarray, labels: np.ndarray) -> set[int]:
    """Returns the off-diagonal examples of the confident joint, by the paper's definition.

    Northcutt et al. 2021, section 3.1: an example is counted at (label, j) if p_j is the largest
    probability among those that reach the threshold of their class. As in cleanlab, examples whose
    most probable class is the label are left out.
    """
    classes = probabilities.shape[1]
    thresholds = [
        np.mean([p[j] for p, label in zip(probabilities, labels, strict=True) if label == j])
        for j in range(classes)
    ]
    found = set()
    for index, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        reached = [j for j in range(classes) if row[j] >= thresholds[j]]
        if reached:
            counted = max(reached, key=lambda j: row[j])
            if counted != label and row.argmax() != label:
                found.add(index)
    return found


def of_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> label_errors.Candidates:
    found = scores.per_example(np.log(probabilities), labels)
    names = np.array([str(index) for index in range(len(labels))])
    classes = np.array([str(index) for index in range(probabilities.shape[1])])
    rows = example_rows.of_scores(example_rows.Examples(names, labels, classes), found)
    return label_errors.of_rows(rows)


def test_a_case_by_hand() -> None:
    # Thresholds: (0.8 + 0.6 + 0.1) / 3 = 0.5 and (0.9 + 0.3 + 0.6) / 3 = 0.6.
    probabilities = np.array(
        [[0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9], [0.7, 0.3], [0.4, 0.6]]
    )
    found = of_probabilities(probabilities, np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_allclose(found.thresholds, [0.5, 0.6])
    # Example 2: 0.9 >= 0.6, margin 0.1 - 0.9. Example 4: 0.7 >= 0.5, margin 0.3 - 0.7.
    assert found.indices.tolist() == [2, 4]
    np.testing.assert_allclose(found.margins, [-0.8, -0.4])


def test_an_unsure_prediction_is_no_candidate() -> None:
    # The threshold of class 1 is 0.95; 0.55 does not reach it.
    probabilities = np.array([[0.9, 0.1], [0.45, 0.55], [0.05, 0.95]])
    assert not of_probabilities(probabilities, np.array([0, 0, 1])).indices.size


def test_a_class_without_examples_has_no_threshold_and_no_candidates() -> None:
    probabilities = np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    found = of_probabilities(probabilities, np.array([0, 1]))
    assert np.isnan(found.thresholds[2])
    assert not found.indices.size


def test_candidates_are_in_the_confident_joint() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    logits = generator.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    joint = joint_by_loops(probabilities, labels)
    found = of_probabilities(probabilities, labels)
    assert set(found.indices.tolist()) <= joint
    # The others have a most probable class below its threshold.
    for index in joint - set(found.indices.tolist()):
        top = probabilities[index].argmax()
        assert probabilities[index, top] < found.thresholds[top]
    assert (np.diff(found.margins) >= 0).all()


def test_planted_errors_are_found_first() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 5, 1000)
    logits = generator.normal(size=(1000, 5)) + 6 * np.eye(5)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    planted = generator.choice(1000, 50, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + 1) % 5
    found = of_probabilities(probabilities, labels)
    right = np.isin(found.indices, planted)
    assert right.mean() > 0.95  # precision
    assert right.sum() > 0.8 * len(planted)  # recall: an unsure prediction is no candidate
    assert right[:25].all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(errors.UserError, match="one value for each example"):
        label_errors.find(np.zeros(2, int), np.zeros(3, int), np.zeros(2), np.zeros(2), 2)
    with pytest.raises(errors.UserError, match="classes must be in 0 to 1, got 0 to 2"):
        label_errors.find(np.array([0, 2]), np.array([0, 1]), np.zeros(2), np.zeros(2), 2)
