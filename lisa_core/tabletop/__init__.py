"""Rendered tabletops as a robot's camera sees them, with ground truth, and questions with true answers.

Start with `kinds` (kinds of things on a table), `scene` (an arrangement of things, by seed), `render` (its picture,
depth and masks), `questions` (questions about it, with the true answers).
"""
